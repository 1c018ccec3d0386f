"""Creates the Python environment with torch, safetensors, diffusers and picklescan that the tests compare with.

    python3 tests/peers/install.py [FOLDER]

FOLDER defaults to target/peers in the repository. Needs only the standard library. The versions are
pinned in requirements.txt; an environment with the same requirements is kept. cuda_stubs.py makes
torch importable on a machine without CUDA.
"""

import argparse
import fcntl
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import venv

import cuda_stubs

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
DEFAULT_FOLDER = HERE.parent.parent / "target" / "peers"

# Contains the text of the requirements. Written last, so an incomplete installation has no such file.
MARKER = "installed-requirements.txt"

# The oldest Python that the pinned numpy supports.
OLDEST_PYTHON = (3, 11)

# The Debian packages of tools that may be missing.
APT_PACKAGES = ("gcc", "binutils", "python3-venv")

PRINT_VERSIONS = """
import safetensors, torch
print("torch", torch.__version__)
print("safetensors", safetensors.__version__)
"""


def missing_tools():
    missing = [tool for tool in cuda_stubs.TOOLS if shutil.which(tool) is None]
    # Debian ships venv without ensurepip, but the environment needs pip.
    importlib.invalidate_caches()
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("the venv module")
    return missing


def require_tools():
    missing = missing_tools()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", *APT_PACKAGES], check=False)
        missing = missing_tools()
    if missing:
        sys.exit(f"install.py: missing: {', '.join(missing)} (on Debian: apt-get install {' '.join(APT_PACKAGES)})")


def imports_torch(python):
    return subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0


def site_packages(python):
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def install(folder):
    require_tools()
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
    if not imports_torch(python):
        cuda_stubs.write_stubs(site_packages(python))
    subprocess.run([python, "-c", PRINT_VERSIONS], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args().folder.absolute()
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        sys.exit(f"install.py: Python {oldest} or newer is needed, this is {platform.python_version()}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    # If several processes start at once, the first installs and the others wait for it.
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marker = folder / MARKER
        wanted = REQUIREMENTS.read_text()
        if marker.is_file() and marker.read_text() == wanted:
            print(f"{folder}: up to date")
            return
        try:
            install(folder)
        except subprocess.CalledProcessError as error:
            sys.exit(f"install.py: failed with status {error.returncode}: {' '.join(map(str, error.cmd))}")
        marker.write_text(wanted)


if __name__ == "__main__":
    main()
