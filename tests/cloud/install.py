"""Creates what the tests of addresses use: a Python environment with an S3 server (moto) and Ray, and a second S3 server
(s3s-fs), which cargo builds in target/s3s.

    python3 tests/cloud/install.py [FOLDER]

FOLDER defaults to target/cloud in the repository. It is that of the Python environment.
"""

import pathlib
import subprocess
import sys
import venv

here = pathlib.Path(__file__).resolve().parent
folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parents[1] / "target" / "cloud"
venv.create(folder, with_pip=True)
python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", here / "requirements.txt"], check=True)
cargo = ["cargo", "build", "--quiet", "--locked", "--manifest-path", here / "s3s/Cargo.toml"]
subprocess.run([*cargo, "--target-dir", here.parents[1] / "target/s3s"], check=True)
