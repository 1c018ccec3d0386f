"""Stand-ins for the CUDA libraries that libtorch links against.

The torch wheel on PyPI for Linux is a CUDA build: `import torch` fails in the dynamic linker unless
libcudart, libcublas, libcudnn and similar libraries are found, whose wheels take several gigabytes.
The tests only read and write files on the CPU and never call these libraries, so the libraries only
need to exist and resolve every symbol. Each stub function returns 100 (cudaErrorNoDevice), so code
that looks for a device finds none.

The stubs are written into torch/lib, the first folder in libtorch's RUNPATH. Use them only in an
environment for these tests, not in one that uses a GPU.
"""

import collections
import pathlib
import re
import subprocess
import tempfile

TOOLS = ("gcc", "readelf", "nm")

NO_DEVICE = 100

CUDA_LIBRARY = re.compile(r"lib(cu|nccl|nvrtc|nvjit|nvtx|nvToolsExt|nvshmem)")

# Symbols without a version tag are assigned to libraries by prefix. The first match wins, so longer
# prefixes come first.
OWNER_BY_PREFIX = (
    ("cudnn", "libcudnn"),
    ("cublasLt", "libcublasLt"),
    ("cublas", "libcublas"),
    ("cusparseLt", "libcusparseLt"),
    ("cusparse", "libcusparse"),
    ("cufft", "libcufft"),
    ("curand", "libcurand"),
    ("cusolver", "libcusolver"),
    ("nccl", "libnccl"),
    ("pnccl", "libnccl"),
    ("nvrtc", "libnvrtc"),
    ("cupti", "libcupti"),
    ("cuda", "libcudart"),
    ("__cuda", "libcudart"),
    ("nvshmem", "libnvshmem_host"),
    ("cuFile", "libcufile"),
)
# The driver API is cuInit, cuMemAlloc and so on: "cu" and a capital letter.
DRIVER_SYMBOL = re.compile(r"cu[A-Z]")
DRIVER = "libcuda"


def base_name(library):
    """libcudart.so.13 -> libcudart"""
    return library.split(".so")[0]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed_libraries(binary):
    return set(re.findall(r"\(NEEDED\).*\[(.+?)\]", output_of("readelf", "-dW", str(binary))))


def undefined_symbols(binary):
    """(symbol, version) pairs; the version is "" if the symbol has none."""
    for line in output_of("nm", "-D", "--undefined-only", str(binary)).splitlines():
        symbol, _, version = line.split()[-1].partition("@")
        yield symbol, version.lstrip("@")


def owner(symbol, version, libraries):
    """The library among `libraries` that is expected to define the symbol, or None."""
    # CUDA's own version tags are sonames ("libcudart.so.13").
    if version.startswith("lib"):
        wanted = base_name(version)
    else:
        wanted = next((lib for prefix, lib in OWNER_BY_PREFIX if symbol.startswith(prefix)), None)
        if wanted is None and DRIVER_SYMBOL.match(symbol):
            wanted = DRIVER
    return next((lib for lib in libraries if base_name(lib) == wanted), None)


def symbols_by_library(binaries):
    """{library: {version: {symbol}}} of everything the binaries need from CUDA."""
    libraries = {lib for b in binaries for lib in needed_libraries(b) if CUDA_LIBRARY.match(lib)}
    # A NEEDED library must exist even if no symbol comes from it.
    wanted = {library: collections.defaultdict(set) for library in sorted(libraries)}
    for binary in binaries:
        for symbol, version in undefined_symbols(binary):
            library = owner(symbol, version, wanted)
            # A symbol that looks like CUDA's but has a tag such as GLIBC_2.2.5 belongs to another library.
            if library and not version.startswith(("GLIBC", "CXXABI", "GCC")):
                wanted[library][version].add(symbol)
    return wanted


def build(library, versions, folder):
    """Compiles one stub library. The linker accepts versioned symbols only with a version script."""
    symbols = sorted(set().union(*versions.values()))
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch, "stub.c")
        source.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in symbols))
        command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", "-nostdlib"]
        command += [f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        tagged = {version: names for version, names in versions.items() if version}
        if tagged:
            script = pathlib.Path(scratch, "stub.map")
            script.write_text(
                "".join(f"{v} {{ global: {'; '.join(sorted(names))}; }};\n" for v, names in sorted(tagged.items()))
            )
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def write_stubs(site_packages):
    """Writes the stubs for the torch in `site_packages` and returns their names."""
    folder = pathlib.Path(site_packages, "torch", "lib")
    binaries = [path for path in sorted(folder.glob("*.so*")) if not CUDA_LIBRARY.match(path.name)]
    wanted = symbols_by_library(binaries)
    for library, versions in wanted.items():
        build(library, versions, folder)
    return list(wanted)
