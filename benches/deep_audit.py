"""Compare `audit --deep` and `hash` with `cat` of the same files.

    target/peers/bin/python benches/deep_audit.py FOLDER [--files N] [--runs N] [--binary FILE]

Creates N checkpoints of the size of Stable Diffusion v1 in f16 (2.13 GB each, default 2) with random values in FOLDER. Runs
`cat`, `audit --deep --no-cache` and `hash` in turns, with the files in the page cache and without, and prints a row of a Markdown
table for each: the median, minimum and maximum of wall and CPU seconds, and of the ratio of the wall time to that of the `cat`
before it. Then it runs `audit --deep` with an empty cache folder and again.
"""

import argparse
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

from side_by_side import forget, run, spread, write_header  # noqa: E402  (a neighbor)

# Values that all tensors are cut from, at places of their own.
VALUES = 1 << 24


def create_all(paths):
    """Runs in a process of its own: the peak of a process is never below the memory of the one that starts it."""
    sys.path.append(str(HERE.parent / "fixtures"))
    import numpy
    import sd1

    values = numpy.random.default_rng(1).standard_normal(2 * VALUES, dtype=numpy.float32) * 0.05
    values = values.astype(numpy.float16)
    shapes = sd1.shapes()
    for number, path in enumerate(paths):
        if not path.exists():
            create(path, number, shapes, values)


def create(path, number, shapes, values):
    with open(path, "wb") as file:
        write_header(file, shapes, f"checkpoint {number}")
        for index, shape in enumerate(shapes.values()):
            start, count = (7919 * index + 104_729 * number) % VALUES, math.prod(shape)
            while count > 0:
                part = values[start : start + min(count, VALUES)]
                file.write(memoryview(part).cast("B"))
                count -= len(part)


def measure(command, environment=None):
    # Findings exit 1.
    return run(command, environment=environment, accepted=(0, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--binary", type=pathlib.Path, default=HERE.parent / "target" / "release" / "trinart-ckpt")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    files = [options.folder / f"deep-{number}.safetensors" for number in range(options.files)]
    creator = multiprocessing.get_context("spawn").Process(target=create_all, args=(files,))
    creator.start()
    creator.join()
    print(f"{sum(path.stat().st_size for path in files):,} bytes")
    binary = [options.binary, "-q"]
    commands = {
        "cat": ["cat", *files],
        "audit --deep --no-cache": [*binary, "audit", "--deep", "--no-cache", *files],
        "hash": [*binary, "hash", *files],
    }
    print("| command | page cache | wall, s | CPU, s | wall, of cat | peak, MB |\n|---|---|---:|---:|---:|---:|")
    for is_cold in (False, True):
        results = {name: [] for name in commands}
        for turn in range(options.runs + (not is_cold)):
            for name, command in commands.items():
                if is_cold:
                    for path in files:
                        forget(path)
                result = measure(command)
                # The first turn fills the page cache.
                if is_cold or turn > 0:
                    results[name].append(result)
        for name, found in results.items():
            wall, cpu, peak = zip(*found)
            ratios = [ours.seconds / cat.seconds for ours, cat in zip(found, results["cat"])]
            state = "cold" if is_cold else "warm"
            print(f"| {name} | {state} | {spread(wall)} | {spread(cpu)} | {spread(ratios)} | {max(peak) / 1e6:.0f} |")
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        for name in ("first", "second"):
            print(f"{name} run with a cache: {measure([*binary, 'audit', '--deep', *files], environment).seconds:.2f} s")


if __name__ == "__main__":
    main()
