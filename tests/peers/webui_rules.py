"""The rules by which AUTOMATIC1111's WebUI accepts or rejects a torch file.

Before torch.load, WebUI checks the names in the zip archive and runs the pickle through an unpickler
that allows a fixed list of globals. This module restates those rules for two versions: the strict
one of October 2022, and 1.10.1, the last release. It calls no global of a pickle except the
harmless constructors below.
"""

import codecs
import collections
import pickle
import re
import zipfile

FIRST_GLOBALS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("torch", "FloatStorage"),
    ("torch", "HalfStorage"),
    ("torch", "IntStorage"),
    ("torch", "LongStorage"),
    ("torch", "DoubleStorage"),
    ("torch", "ByteStorage"),
    ("torch", "float32"),
    ("torch.nn.modules.container", "ParameterDict"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    ("pytorch_lightning.callbacks", "model_checkpoint"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("__builtin__", "set"),
}

Version = collections.namedtuple("Version", "names pickle_name globals")

VERSIONS = {
    "2022-10": Version(
        names=re.compile(r"archive/(data/\d+|version|data\.pkl)"),
        pickle_name=re.compile(r"archive/data\.pkl"),
        globals=FIRST_GLOBALS,
    ),
    "1.10.1": Version(
        names=re.compile(r"[^/]+/(data/\d+|version|byteorder|\.data/serialization_id|data\.pkl)"),
        pickle_name=re.compile(r"[^/]+/data\.pkl"),
        globals=FIRST_GLOBALS | {("torch", "BFloat16Storage")},
    ),
}

# A legacy file is five pickles in a row: magic number, protocol, system, content, storage keys.
LEGACY_PICKLES = 5

# Constructors whose results the rest of the pickle uses; all other globals become inert.
REAL = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): codecs.encode,
    ("__builtin__", "set"): set,
}


class Inert:
    """Accepts calls and the state of BUILD."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class Refused(Exception):
    pass


class RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file, allowed):
        super().__init__(file)
        self.allowed = allowed

    def persistent_load(self, saved_id):
        if saved_id[0] != "storage":
            raise Refused(f"persistent id {saved_id[0]!r} is not a storage")
        return Inert()

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise Refused(f"global '{module}/{name}' is forbidden")
        return REAL.get((module, name), Inert)


def check(path, version):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                if not version.names.fullmatch(name):
                    raise Refused(f"bad file inside the archive: {name}")
            pickles = [name for name in names if version.pickle_name.fullmatch(name)]
            if len(pickles) != 1:
                raise Refused(f"{len(pickles)} records named data.pkl, expected exactly one")
            with archive.open(pickles[0]) as file:
                RestrictedUnpickler(file, version.globals).load()
    except zipfile.BadZipFile:
        with open(path, "rb") as file:
            for _ in range(LEGACY_PICKLES):
                RestrictedUnpickler(file, version.globals).load()


def verdict(path, version):
    try:
        check(path, version)
    # WebUI rejects a file on any exception.
    except Exception as error:
        return str(error) or type(error).__name__
    return "ok"


def verdicts(path):
    """{version of the WebUI: "ok" or the reason to reject the file}"""
    return {name: verdict(path, version) for name, version in VERSIONS.items()}
