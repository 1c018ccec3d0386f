"""Describes checkpoints as the real libraries read them, as JSON.

    describe.py [--full] [--webui] [--picklescan] [--cast DTYPE [--saturate]] [--equal-nans] FILE...

Prints a list with one object per file, in the order of the arguments:

    file, loader    the file's name and the library, version and mode that read it
    root            "state_dict" if the tensors are under that key, "" if they are at the top level
    tensors         [key, dtype, shape, sha256 of the contiguous little-endian bytes], in order
    shared          groups of keys whose tensors share one storage
    extras          everything except the tensors
    metadata        safetensors only: the header's __metadata__
    webui           torch with --webui: the result of two versions of AUTOMATIC1111's WebUI, "ok" or the reason
    picklescan      torch with --picklescan: the numbers of dangerous and suspicious globals

Torch files are loaded with weights_only=True and mmap=True. --full loads with weights_only=False and
without mmap, which files with classes and legacy files need. It executes the pickle: use it for
trusted files only. A file that cannot be read gives {"file", "error"} and exit status 1.

--cast describes the tensors after torch's cast of the floating ones, --saturate with the largest
value in place of an overflow to infinity. The bits of a NaN after a cast depend on the processor;
--equal-nans treats all NaNs as equal.
"""

import argparse
import hashlib
import json
import math
import pathlib
import pickle
import sys
import types

import picklescan.scanner
import safetensors
import torch
import webui_rules

# In the spelling of safetensors.
DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}

CASTS = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}

ZIP_MAGIC = b"PK\x03\x04"

# The library's limit on the length of a header.
SAFETENSORS_HEADER_LIMIT = 100_000_000


# --- Classes that are not installed -----------------------------------------------------------------


class Opaque:
    """Stands in for a class whose package is not installed, and for its instances.

    Accepts every operation of a pickle, so that the other tensors can be read.
    """

    def __init__(self, *args, **kwargs):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def __repr__(self):
        return f"<{type(self).__module__}.{type(self).__qualname__} object>"


class OpaqueUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (Opaque,), {"__module__": module, "__qualname__": name})


# torch.load expects a module with these names.
OPAQUE_PICKLE = types.SimpleNamespace(
    __name__="opaque_pickle",
    Unpickler=OpaqueUnpickler,
    load=lambda file, **options: OpaqueUnpickler(file, **options).load(),
)


# --- Values -----------------------------------------------------------------------------------------


def tensor_bytes(tensor):
    """The elements in order, little-endian, as a buffer, without a copy if possible."""
    # Every dtype has a one-dimensional uint8 view; numpy lacks bfloat16 and float8.
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def cast(tensor, dtype, saturate):
    if not tensor.is_floating_point():
        return tensor
    result = tensor.to(dtype)
    if saturate:
        # Some dtypes lack isfinite. float64 represents the values of all dtypes.
        became_infinite = result.isinf() & tensor.to(torch.float64).isfinite()
        largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype)
        result = torch.where(became_infinite, torch.copysign(largest, result), result)
    return result


def with_equal_nans(tensor):
    if tensor.dtype not in CASTS.values():
        return tensor
    return torch.where(tensor.isnan(), torch.tensor(math.nan, dtype=tensor.dtype), tensor)


def changed(tensor, options):
    """The tensor after the casts that the options request."""
    if options is not None and options.cast:
        tensor = cast(tensor, CASTS[options.cast], options.saturate)
    if options is not None and options.equal_nans:
        tensor = with_equal_nans(tensor)
    return tensor


def tensor_facts(tensor):
    digest = hashlib.sha256(tensor_bytes(tensor)).hexdigest()
    return [DTYPE_NAMES[tensor.dtype], list(tensor.shape), digest]


def jsonable(value):
    """The value as JSON if possible; otherwise the facts of a tensor, or the repr of any other value."""
    if isinstance(value, torch.Tensor):
        return {"tensor": tensor_facts(value)}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    # JSON has neither NaN nor infinity.
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    # Not isinstance, because numpy's float64 is also a float, but the output must show its class.
    if value is None or type(value) in (bool, int, float, str):
        return value
    return repr(value)


def shared_storages(tensors):
    groups = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        # Empty storages have no distinct address.
        if storage.nbytes() > 0:
            groups.setdefault(storage.data_ptr(), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


# --- Containers -------------------------------------------------------------------------------------


def safetensors_header(path):
    """The header as a dict in file order, or None for other files."""
    with open(path, "rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[:4] == ZIP_MAGIC or start[8:] != b"{" or length > SAFETENSORS_HEADER_LIMIT:
            return None
        file.seek(8)
        return json.loads(file.read(length))


def describe_safetensors(path, header, options):
    keys = [key for key in header if key != "__metadata__"]
    with safetensors.safe_open(path, framework="pt") as file:
        if sorted(file.keys()) != sorted(keys):
            raise ValueError("safe_open lists keys that differ from the header")
        tensors = [[key, *tensor_facts(changed(file.get_tensor(key), options))] for key in keys]
        # Sorted, because the library returns a hash map whose order differs between runs.
        metadata = dict(sorted((file.metadata() or {}).items()))
    return {
        "loader": f"safetensors {safetensors.__version__} safe_open",
        "root": "",
        "tensors": tensors,
        "shared": [],
        "extras": {},
        "metadata": metadata,
    }


def load_torch(path, full):
    """(the result of torch.load, the mode of the call)"""
    if full:
        content = torch.load(path, map_location="cpu", weights_only=False, mmap=False, pickle_module=OPAQUE_PICKLE)
        return content, "full"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True), "weights_only mmap"


def describe_torch(path, full, options):
    content, mode = load_torch(path, full)
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not a dict")
    root = "state_dict" if isinstance(content.get("state_dict"), dict) else ""
    entries = content[root] if root else content
    tensors = {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}
    extras = {key: value for key, value in entries.items() if key not in tensors}
    if root:
        extras.update((key, value) for key, value in content.items() if key != root)
    return {
        "loader": f"torch {torch.__version__.partition('+')[0]} {mode}",
        "root": root,
        "tensors": [[key, *tensor_facts(changed(tensor, options))] for key, tensor in tensors.items()],
        "shared": shared_storages(tensors),
        "extras": jsonable(extras),
    }


def describe(path, full=False, options=None):
    """The facts about one file, without its name; options are those of the command line."""
    header = safetensors_header(path)
    if header is None:
        return describe_torch(path, full, options)
    return describe_safetensors(path, header, options)


# --- WebUI and picklescan ---------------------------------------------------------------------------


def picklescan_counts(path):
    # Not scan_file_path, which uses the file extension to decide whether there is a pickle.
    with open(path, "rb") as file:
        result = picklescan.scanner.scan_bytes(file, str(path), ".ckpt")
    levels = [found.safety for found in result.globals]
    return {
        "dangerous": levels.count(picklescan.scanner.SafetyLevel.Dangerous),
        "suspicious": levels.count(picklescan.scanner.SafetyLevel.Suspicious),
        "error": result.scan_err,
    }


# --- Command line -----------------------------------------------------------------------------------


def describe_or_error(path, options):
    try:
        facts = {"file": str(path), **describe(path, options.full, options)}
        # Only safetensors files have metadata, and they have no pickle.
        has_pickle = "metadata" not in facts
        if options.webui and has_pickle:
            facts["webui"] = webui_rules.verdicts(path)
        if options.picklescan and has_pickle:
            facts["picklescan"] = picklescan_counts(path)
    # An exception of a library is a result for this file, not a failure of this script.
    except Exception as error:
        return {"file": str(path), "error": f"{type(error).__name__}: {error}"}
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="weights_only=False, no mmap: trusted files only")
    parser.add_argument("--webui", action="store_true", help="apply WebUI's rules for pickles")
    parser.add_argument("--picklescan", action="store_true", help="count what picklescan reports")
    parser.add_argument("--cast", choices=CASTS, help="describe the tensors as torch casts them")
    parser.add_argument("--saturate", action="store_true", help="cast to the largest value rather than infinity")
    parser.add_argument("--equal-nans", action="store_true", help="treat all NaNs as equal")
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()

    described = [describe_or_error(path, options) for path in options.files]
    json.dump(described, sys.stdout, indent=1)
    print()
    return 1 if any("error" in facts for facts in described) else 0


if __name__ == "__main__":
    sys.exit(main())
