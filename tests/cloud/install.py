"""Creates the Python environment with an S3 server (moto) and Ray that the tests of addresses use.

    python3 tests/cloud/install.py [FOLDER]

FOLDER defaults to target/cloud in the repository.
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
