"""Writes the seeds of each fuzz target, from the fixtures: seed.py FOLDER."""

import pathlib
import struct
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
SMALL = 65536


def main():
    out = pathlib.Path(sys.argv[1])

    def seed(targets, name, content):
        for target in targets:
            (out / target).mkdir(parents=True, exist_ok=True)
            (out / target / name).write_bytes(content)

    for path in sorted(FIXTURES.glob("*.ckpt")) + sorted((FIXTURES / "hostile").glob("*.ckpt")):
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
            for data in pickles:
                seed(["pickle", "torch_pickle", "scan"], f"{path.stem}.pkl", data[:SMALL])
            targets = ["torch_zip", "scan"]
        else:
            # The pickles are at the beginning. What follows are tensors.
            seed(["pickle"], f"{path.stem}.pkl", content[:4096])
            targets = ["legacy", "scan"]
        if len(content) <= SMALL:
            seed(targets, path.name, content)
    tensor = b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"k":"v"}}'
    seed(["safetensors", "scan"], "small", struct.pack("<Q", len(tensor)) + tensor + bytes(4))
    files = ["model_index.json", "vae/config.json", "unet/diffusion_pytorch_model.safetensors.index.json"]
    for folder in sorted((FIXTURES / "diffusers").iterdir()):
        for index, name in enumerate(files):
            if (folder / name).is_file():
                seed(["folder"], f"{folder.name}-{index}", bytes([index]) + (folder / name).read_bytes())
    seed(["folder"], "empty", b"\0{}")


main()
