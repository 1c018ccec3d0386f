"""Writes files for tests of the scan.

    scan_files.py clean FOLDER COUNT    checkpoints of small random tensors of every dtype, zip and legacy
    scan_files.py honest FOLDER         one file of each kind that holds no code
    scan_files.py acting FOLDER         files that run a command when Python loads them

The files of `acting` are loaded, each with the loader that it is made for. Prints the names of those that did not run their
command, as JSON, and deletes them. The command creates a file in the working folder.
"""

import bz2
import collections
import functools
import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import pickletools
import random
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib

import numpy
import torch
from safetensors.torch import save as save_safetensors

MARK = "ran"
COMMAND = f"touch {MARK}"
DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def tensor(index, rng):
    dtype = DTYPES[index % len(DTYPES)]
    shape = [rng.randint(1, 6) for _ in range(rng.randint(0, 3))]
    count = 1
    for dim in shape:
        count *= dim
    return torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8).view(dtype).reshape(shape)


def clean(folder, count):
    rng = random.Random(7)
    torch.manual_seed(7)
    for index in range(count):
        state = collections.OrderedDict((f"layer.{key}.weight", tensor(key, rng)) for key in range(150))
        content = {"state_dict": state, "epoch": 6} if index % 3 else state
        torch.save(content, folder / f"{index}.ckpt", _use_new_zipfile_serialization=bool(index % 4))


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def array(*values, **options):
    buffer = io.BytesIO()
    for value in values:
        numpy.save(buffer, value, **options)
    return buffer.getvalue()


def zipped(records, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def honest(folder):
    state = {f"key{index}": torch.randn(5, 7) for index in range(20)}
    checkpoint = saved(state)
    records = {entry.filename: zipfile.ZipFile(io.BytesIO(checkpoint)).read(entry) for entry in
               zipfile.ZipFile(io.BytesIO(checkpoint)).infolist()}
    arrays, deflated = io.BytesIO(), io.BytesIO()
    numpy.savez(arrays, a=numpy.random.randn(5), b=numpy.arange(7))
    numpy.savez_compressed(deflated, a=numpy.random.randn(5000), b=numpy.arange(70000))
    plain = {"a": [1, 2.5, "x"], "b": (None, True)}
    files = {
        "plain.pkl": pickle.dumps(plain),
        "text.pkl": pickle.dumps(plain, 0),
        "hash": pickle.dumps(plain),
        "state.pkl": pickle.dumps(state),
        "numpy.pkl": pickle.dumps({key: value.numpy() for key, value in state.items()}),
        "floats.npy": array(numpy.random.randn(5, 5).astype("f4")),
        "records.npy": array(numpy.zeros(3, dtype=[("a", "<f4"), ("b", "S3")])),
        "fields.npy": array(numpy.zeros(2, dtype=[("a'b", "<f4"), ('c"d', "U2", (3,)), ("", [("x", "M8[25s]")])])),
        "fields-and-more.npy": array(numpy.zeros(3, dtype=[("a", "<f4"), ("b", "S3")]), numpy.arange(3)),
        "dates.npy": array(numpy.zeros(3, "M8[ns]"), numpy.zeros(3, "m8[25us]")),
        "texts.npy": array(numpy.array(["abc", "de"])),
        "two.npy": array(numpy.arange(3), numpy.arange(4.0)),
        "objects.npy": array(numpy.array([{"a": 1}, [2]], dtype=object), allow_pickle=True),
        "arrays.npz": arrays.getvalue(),
        "deflated.npz": deflated.getvalue(),
        "plain.pkl.gz": gzip.compress(pickle.dumps(plain)),
        "plain.z": zlib.compress(pickle.dumps(plain)),
        "files.tar": tarred({"model.ckpt": checkpoint, "floats.npy": array(numpy.zeros(3))}),
        "files.tar.gz": gzip.compress(tarred({"model.ckpt": checkpoint})),
        "files.zip": zipped({"model.ckpt": checkpoint, "notes.txt": b"hi"}, zipfile.ZIP_DEFLATED),
        "deflated.ckpt": zipped(records, zipfile.ZIP_DEFLATED),
    }
    for length in range(0, 0x700, 0x35):
        files[f"{length}.safetensors"] = save_safetensors({"a": torch.randn(3)}, metadata={"x": "y" * length})
    for name, content in files.items():
        (folder / name).write_bytes(content)


# --- Files that act --------------------------------------------------------------------------------------------------


class Acts:
    def __reduce__(self):
        return os.system, (COMMAND,)


# Without PROTO; behind an odd first opcode; with a name that is computed, and broken behind the call.
CALL = b"cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR"
COMPUTED = b"cbuiltins\nstr\n(Vposix\ntRVsystem\n\x93(V" + COMMAND.encode() + b"\ntR\xff"
BODIES = {
    "headless": CALL + b".",
    "odd": b"N0" + CALL + b".",
    "computed": COMPUTED,
    "protocol4": pickle.dumps(Acts(), 4),
    "broken": pickle.dumps(Acts(), 2)[:-1] + b"\xff",
}


def legacy(index, body):
    """A legacy file with this body in place of one of its five pickles."""
    raw = saved({"a": torch.ones(3)}, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(raw)
    cuts = [0]
    for _ in range(5):
        collections.deque(pickletools.genops(stream), 0)
        cuts.append(stream.tell())
    parts = [raw[begin:end] for begin, end in zip(cuts, cuts[1:])]
    parts[index] = body
    return b"".join(parts) + raw[cuts[5]:]


def loading(content):
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(content)) + content + b"\x85R."


def polyglot():
    """A safetensors file whose header's length is UNICODE, up to a newline behind the header."""
    data = CALL + b"."
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    length = len(header) + 1
    length += (ord("V") - length) % 256
    return struct.pack("<Q", length) + header.ljust(length - 1) + b"\n" + data


def raw_array(descr, content, shape="(1,)"):
    header = ("{'descr': %s, 'fortran_order': False, 'shape': %s, }" % (descr, shape)).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + content


def object_array(descr):
    return raw_array(descr, CALL + b".")


def by_torch(path):
    torch.load(path, weights_only=False)


def by_pickle(path):
    with open(path, "rb") as file:
        while True:
            pickle.load(file)


def by_numpy(path):
    with open(path, "rb") as file:
        for _ in range(2):
            loaded = numpy.load(file, allow_pickle=True)
            for name in getattr(loaded, "files", []):
                loaded[name]


def by_member(open_archive, path):
    archive = open_archive(path)
    if isinstance(archive, zipfile.ZipFile):
        contents = [archive.read(name) for name in archive.namelist()]
    else:
        contents = [archive.extractfile(member).read() for member in archive.getmembers()]
    for content in contents:
        for load in (lambda data: torch.load(io.BytesIO(data), weights_only=False), pickle.loads):
            try:
                load(content)
            except Exception:
                pass


def by_inner_zip(path):
    archive = zipfile.ZipFile(path)
    for name in archive.namelist():
        by_member(zipfile.ZipFile, io.BytesIO(archive.read(name)))


def by_decompressing(decompress, path):
    """As joblib does."""
    pickle.loads(decompress(path.read_bytes()))


def acting_files():
    by_zip = functools.partial(by_member, zipfile.ZipFile)
    by_tar = functools.partial(by_member, tarfile.open)
    good, evil = saved({"a": torch.ones(3)}), saved(Acts())
    for name, body in BODIES.items():
        for index in range(5):
            yield f"legacy-{index}-{name}.pt", legacy(index, body), by_torch
            yield f"loaded-{index}-{name}.pkl", loading(legacy(index, body)), by_pickle
        for ending in ["", ".sav", ".p", ".dill", ".bak", ".json", ".png", ".safetensors"]:
            yield f"bare-{name}{ending}", body, by_pickle
        yield f"loaded-{name}.pkl", loading(body), by_pickle
        yield f"before-zip-{name}.ckpt", body + good, by_torch
        yield f"record-{name}.zip", zipped({"a/data.pkl": body}), by_zip
        yield f"named-{name}.zip", zipped({"a/notes": body}, zipfile.ZIP_DEFLATED), by_zip
        yield f"member-{name}.tar", tarred({"a/notes": body}), by_tar
        yield f"member-{name}.tar.gz", gzip.compress(tarred({"a/notes": body})), by_tar
        yield f"stacked-{name}.pkl", pickle.dumps({"a": 1}, 0) + pickle.dumps(2) + body, by_pickle
        for ending, module in {"gz": gzip, "z": zlib, "bz2": bz2, "xz": lzma}.items():
            load = functools.partial(by_decompressing, module.decompress)
            yield f"compressed-{name}.{ending}", module.compress(body), load
            yield f"compressed-{name}-{ending}", module.compress(body), load
        for member in ["pickle", "storages"]:
            count = pickle.dumps(0, 2)
            members = {"sys_info": pickle.dumps({}, 2), "storages": count + pickle.dumps([], 2), "tensors": count,
                       "pickle": pickle.dumps({}, 2)}
            yield f"torch-{member}-{name}.pt", tarred({**members, member: body}), by_torch
    objects = numpy.array([Acts()], dtype=object)
    for index, descr in enumerate(["'|O'", "'object'", "'\\x4f'", "'O8'", "'O,i4'", "'|' 'O'", "[('a', 'O')]", "'M8[ns],O'",
                                "[('a', 'm8[s],O')]", "('O', (2,))", "'i4,(2,)O'"]):
        yield f"array-{index}.npy", object_array(descr), by_numpy
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, a=numpy.arange(3), b=objects)
    yield "arrays.npz", buffer.getvalue(), by_numpy
    yield "second.npy", array(numpy.arange(3), objects, allow_pickle=True), by_numpy
    # Other objects behind an array, where only a reader that understands its header looks for them.
    firsts = [("'<f4'", "(0x1,)", 4), ("'<f4'", "((1),)", 4), ("[('a', '<f4'), ('b', '<i8')]", "(1,)", 12),
              ("[('a', '<f4', (2,))]", "(1,)", 8), ("'d'", "(1,)", 8), ("'M8[ns]'", "(1,)", 8)]
    for index, (descr, shape, size) in enumerate(firsts):
        yield f"behind-{index}.npy", raw_array(descr, bytes(size) + object_array("'|O'"), shape), by_numpy
        yield f"pickle-behind-{index}.npy", raw_array(descr, bytes(size) + CALL + b".", shape), by_numpy
    inner = bytes(100) + zipped({"data.pkl": CALL + b"."})
    yield "zip-behind-bytes.zip", zipped({"inner": inner}), by_inner_zip
    yield "zip-behind-bytes-deflated.zip", zipped({"inner": inner}, zipfile.ZIP_DEFLATED), by_inner_zip
    yield "polyglot.safetensors", polyglot(), by_pickle
    magic = b"L119547037146038801333356L\n."
    yield "text-magic", magic + b"I1001\n." + CALL + b".", by_torch
    for name, before in {"png": b"\x89PNG\r\n\x1a\n", "gguf": b"GGUF\3\0\0\0", "txt": b"text", "x": b"PK\3\4"}.items():
        yield f"behind.{name}", before + bytes(100) + zipped({"a/data.pkl": CALL + b"."}), by_zip
        yield f"torch-behind.{name}", before + bytes(100) + zipped({"model.pt": evil}), by_zip
    yield "nested.zip", zipped({"inner": evil}, zipfile.ZIP_DEFLATED), by_zip
    yield "far", b"N0" * (9 << 20) + CALL + b".", by_pickle
    yield "long", b"B" + struct.pack("<I", 40 << 20) + bytes(40 << 20) + b"0" + CALL + b".", by_pickle


def acting(folder):
    inert = []
    for name, content, load in acting_files():
        path = folder / name
        path.write_bytes(content)
        try:
            load(path)
        except Exception:
            pass
        if not os.path.exists(MARK):
            inert.append(name)
            path.unlink()
        else:
            os.remove(MARK)
    json.dump(inert, sys.stdout)


def main():
    warnings.simplefilter("ignore")
    mode, folder, *rest = sys.argv[1:]
    {"clean": clean, "honest": honest, "acting": acting}[mode](pathlib.Path(folder), *map(int, rest))


if __name__ == "__main__":
    main()
