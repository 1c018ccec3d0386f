"""Compare whole processes on full-size files with `cp` and a `sync` of the copy.

    python3 benches/side_by_side.py [FOLDER] [--runs N] [--peer torch] [--only TEXT]

FOLDER (default: target/bench) has the files of make_full_size.py, which are created if they do not exist. Each
task alternates our program and the baseline, with one warm-up run and N measured runs of each, and prints a row
of a Markdown table. README.md in this folder explains the method.
"""

import argparse
import collections
import json
import math
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent

CHECKPOINT = "sd1-full.ckpt"
SAFETENSORS = "sd1-full.safetensors"
VAE = "vae-full.ckpt"

FAST = "--no-verify"
TO_FOLDER = "convert .safetensors to a diffusers folder"
TO_SAFETENSORS_FAST = "convert .ckpt to .safetensors, --no-verify"

OUR_OUTPUT = "side-by-side-ours"
THEIR_OUTPUT = "side-by-side-theirs"

# `inspect` takes milliseconds, so a single run would be too noisy.
INSPECT_RUNS = 20

# The same conversion with the common Python libraries.
TORCH_CONVERT = """
import sys, torch
from safetensors.torch import save_file
tensors = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap=True)["state_dict"]
save_file(tensors, sys.argv[2], metadata={"format": "pt"})
"""

# `ours` is a list of arguments without -o; `theirs` is a shell command that writes {output}.
Task = collections.namedtuple("Task", "name ours extension baseline theirs")
Run = collections.namedtuple("Run", "seconds cpu_seconds peak_bytes")


def copy_of(name):
    return f"cp {name} {{output}} && sync {{output}}"


def copy_task(name, ours, extension, source):
    return Task(name, ours, extension, f"cp, sync of `{source}`", copy_of(source))


def tasks(peer_python):
    convert, merge = ["convert", CHECKPOINT], ["merge-vae", CHECKPOINT, "--vae", VAE]
    all_tasks = [
        copy_task(TO_SAFETENSORS_FAST, [*convert, FAST], ".safetensors", CHECKPOINT),
        copy_task("convert .ckpt to .safetensors", convert, ".safetensors", CHECKPOINT),
        copy_task("convert .safetensors to .ckpt, --no-verify", ["convert", SAFETENSORS, FAST], ".ckpt", SAFETENSORS),
        copy_task("convert .safetensors to .ckpt", ["convert", SAFETENSORS], ".ckpt", SAFETENSORS),
        copy_task(f"{TO_FOLDER}, --no-verify", ["convert", SAFETENSORS, FAST], "/", SAFETENSORS),
        copy_task(TO_FOLDER, ["convert", SAFETENSORS], "/", SAFETENSORS),
        copy_task("merge-vae to .ckpt, --no-verify", [*merge, FAST], ".ckpt", CHECKPOINT),
        copy_task("merge-vae to .safetensors, --no-verify", [*merge, FAST], ".safetensors", CHECKPOINT),
        copy_task("convert --dtype f16, --no-verify", [*convert, "--dtype", "f16", FAST], ".safetensors", CHECKPOINT),
    ]
    if peer_python:
        # Escape the braces of the script for format().
        script = shlex.quote(TORCH_CONVERT).replace("{", "{{").replace("}", "}}")
        theirs = f"{shlex.quote(str(peer_python))} -c {script} {CHECKPOINT} {{output}} && sync {{output}}"
        baseline = "torch.load(mmap), save_file, sync"
        all_tasks.append(Task(TO_SAFETENSORS_FAST, [*convert, FAST], ".safetensors", baseline, theirs))
    return all_tasks


# --- Running ----------------------------------------------------------------------------------------


def run(command, folder=None, environment=None, accepted=(0,)):
    """Run a process, and return its wall time, its CPU time, and the peak resident memory of it and its children."""
    begin = time.perf_counter()
    streams = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=environment, **streams)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: exit status {process.returncode} from: {shlex.join(map(str, command))}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def write_header(file, shapes, title):
    """Write the header of a safetensors file with these tensors in f16. Return the bytes of the values that belong behind it."""
    header, offset = {"__metadata__": {"title": title}}, 0
    for key, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    file.write(struct.pack("<Q", len(text)) + text)
    return offset


def remove(output):
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)


def run_without_leftovers(command, folder, outputs):
    for output in outputs:
        remove(folder / output)
    # Write the data of earlier runs to disk before this run.
    os.sync()
    return run(command, folder)


def measure(task, binary, folder, runs):
    """Return [(ours, theirs)], one pair for each run."""
    our_output, their_output = OUR_OUTPUT + task.extension, THEIR_OUTPUT + task.extension.rstrip("/")
    ours = [binary, "-q", *task.ours, "-o", our_output]
    theirs = ["sh", "-c", task.theirs.format(output=their_output)]
    pairs = []
    for turn in range(runs + 1):
        pair = tuple(run_without_leftovers(command, folder, (our_output, their_output)) for command in (ours, theirs))
        # The first turn warms the page cache.
        if turn > 0:
            pairs.append(pair)
    for output in (our_output, their_output):
        remove(folder / output)
    return pairs


def forget(path):
    """Drop the pages of a file from the page cache. Needs no privileges and does not affect other files."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_inspect(binary, folder, name, is_cold):
    runs = []
    for turn in range(INSPECT_RUNS + 1):
        if is_cold:
            forget(folder / name)
        result = run([binary, "inspect", name], folder)
        if turn > 0:
            runs.append(result)
    return runs


# --- Printing ---------------------------------------------------------------------------------------


def megabytes(runs):
    return f"{max(run.peak_bytes for run in runs) / 1e6:.0f}"


def task_row(task, pairs):
    ours, theirs = zip(*pairs, strict=True)
    ratios = [our.seconds / their.seconds for our, their in pairs]
    cells = [
        task.name,
        f"{statistics.median(run.seconds for run in ours):.2f}",
        task.baseline,
        f"{statistics.median(run.seconds for run in theirs):.2f}",
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        megabytes(ours),
        megabytes(theirs),
    ]
    return f"| {' | '.join(cells)} |"


def inspect_row(name, cache, runs):
    times = sorted(run.seconds * 1000 for run in runs)
    cells = [f"inspect `{name}`, {cache}", f"{statistics.median(times):.1f}", f"{times[0]:.1f} to {times[-1]:.1f}"]
    return f"| {' | '.join([*cells, megabytes(runs)])} |"


def report(line):
    print(line, flush=True)


# --- Command line -----------------------------------------------------------------------------------


def make_files(folder, python):
    if all((folder / name).is_file() for name in (CHECKPOINT, SAFETENSORS, VAE)):
        return
    if not python.is_file():
        sys.exit("side_by_side.py: creating the files requires torch; run python3 tests/peers/install.py")
    subprocess.run([python, HERE / "make_full_size.py", "--out", folder], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=REPOSITORY / "target" / "bench")
    parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "target" / "release" / "trinart-ckpt")
    parser.add_argument("--python", type=pathlib.Path, default=REPOSITORY / "target" / "peers" / "bin" / "python")
    parser.add_argument("--peer", choices=["torch"], help="also compare with torch and safetensors, using --python")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each, after a warm-up run")
    parser.add_argument("--only", default="", help="measure only the tasks whose name contains this text")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    # Not resolve(): Python finds its virtual environment by the path of the link.
    folder, binary, python = (path.absolute() for path in (options.folder, options.binary, options.python))
    if not binary.is_file():
        sys.exit(f"side_by_side.py: {binary} does not exist; run cargo build --release")
    make_files(folder, python)

    size = (folder / CHECKPOINT).stat().st_size
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    report(f"{size / 1e9:.2f} GB checkpoint, {cores} cores, {platform.system()}, load {load:.1f} at the start.\n")
    chosen = [task for task in tasks(python if options.peer else None) if options.only in task.name]
    if chosen:
        report("| task | ours, s | baseline | baseline, s | ratio (min to max) | our peak, MB | baseline peak, MB |")
        report("|---|---:|---|---:|---|---:|---:|")
    for task in chosen:
        report(task_row(task, measure(task, binary, folder, options.runs)))
    if options.only in "inspect":
        report("\n| task | median, ms | min to max, ms | our peak, MB |")
        report("|---|---:|---|---:|")
        for name in (CHECKPOINT, SAFETENSORS):
            report(inspect_row(name, "warm cache", measure_inspect(binary, folder, name, is_cold=False)))
        for name in (CHECKPOINT, SAFETENSORS):
            report(inspect_row(name, "cold cache", measure_inspect(binary, folder, name, is_cold=True)))


if __name__ == "__main__":
    main()
