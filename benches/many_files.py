"""Measure `audit` on a folder of many sparse checkpoints.

    python3 benches/many_files.py FOLDER [--files N] [--runs N] [--binary FILE]

Creates N checkpoints (default 4,000) in FOLDER, in turns of the structure of Stable Diffusion v1 (2.1 GB in f16) and of SDXL
(6.9 GB). They are sparse: the headers are true, the values are zeros that take no space on the disk. Runs `audit`, and
prints a row of a Markdown table: the median, minimum and maximum of wall and CPU seconds, and peak memory.
"""

import argparse
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"

from side_by_side import run, spread, write_header  # noqa: E402  (a neighbor)

# Lists of keys, and what the keys of each begin with.
SD1 = {"sd1-ldm.keys": ""}
SDXL = {
    "layouts/sdxl-unet.ldm.keys": "",
    "layouts/autoencoder.ldm.keys": "",
    "layouts/clip-l.keys": "conditioner.embedders.0.transformer.",
    "layouts/sdxl-openclip.ldm.keys": "",
}


def shapes_of(lists):
    """Return {key: shape} of lists of keys, each under a prefix, without the keys of averages."""
    found = {}
    for name, prefix in lists.items():
        for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                continue
            key, _, shape, *_ = line.split()
            if not key.startswith("model_ema."):
                found[prefix + key] = [] if shape == "-" else [int(size) for size in shape.split("x")]
    return found


def create(path, shapes, number):
    """Write a header in front of a hole. The number makes each header unlike the others."""
    with open(path, "wb") as file:
        size = write_header(file, shapes, f"checkpoint {number}")
        file.truncate(file.tell() + size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--binary", type=pathlib.Path, default=HERE.parent / "target" / "release" / "trinart-ckpt")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    structures = [shapes_of(SD1), shapes_of(SDXL)]
    for number in range(options.files):
        create(options.folder / f"model-{number:04}.safetensors", structures[number % len(structures)], number)

    # Findings exit 1: position_ids of zeros are wrong.
    command = [options.binary, "-q", "audit", options.folder]
    results = [run(command, accepted=(0, 1)) for _ in range(options.runs)]
    wall, cpu, peak = zip(*results)
    print("| files | wall, s | CPU, s | peak, MB |\n|---:|---:|---:|---:|")
    print(f"| {options.files} | {spread(wall)} | {spread(cpu)} | {max(peak) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
