"""Time a step of the UNet, and the autoencoder, on the CPU beside PyTorch.

    cargo build --release --example render_speed
    python benches/render.py FOLDER [--runs 3] [--pixels 256] [--only unet]

The Python has torch, diffusers, transformers and safetensors. FOLDER gets the model, 4.3 GB in the sizes of SD v1 with
random weights (`fixtures/render/make.py --full`), and needs 10 GB of memory for that. Each process makes one call that is
not counted, and then those that are; ours and PyTorch's take turns. CPU seconds are those of all threads, and what is
compared: seconds of the wall depend on who else is at work. OpenMP's threads are told to sleep where they wait for each
other, or PyTorch's would count that time. Peak memory is that of the process, loading included; PyTorch makes its
weights in place and reads no file.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target" / "release" / "examples" / "render_speed"

# What is measured: stage and batch. A step of the UNet is for the prompt and the negative prompt at once.
STAGES = {"unet": 2, "decode": 1, "encode": 1}


def with_torch(stage, pixels, batch, runs):
    """Prints what examples/render_speed.rs prints."""
    import torch

    sys.path.insert(0, str(ROOT / "fixtures" / "render"))
    torch.set_grad_enabled(False)
    call = getattr(Calls, stage)(torch, pixels, batch)
    call()
    cpu, wall = [], []
    for _ in range(runs):
        before, start = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - before)
        wall.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak}))


class Calls:
    @staticmethod
    def unet(torch, pixels, batch):
        import make

        unet = make.full_unet()
        x, context = torch.randn(batch, 4, pixels // 8, pixels // 8), torch.randn(batch, 77, 768)
        return lambda: unet(x, torch.tensor(500.0), context).sample

    @staticmethod
    def decode(torch, pixels, batch):
        import make

        vae = make.full_autoencoder()
        z = torch.randn(batch, 4, pixels // 8, pixels // 8)
        return lambda: vae.decode(z).sample

    @staticmethod
    def encode(torch, pixels, batch):
        import make

        vae = make.full_autoencoder()
        image = torch.randn(batch, 3, pixels, pixels)
        return lambda: vae.encode(image).latent_dist.mean


def measure(command):
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3, help="calls that are counted, in each process (3)")
    parser.add_argument("--turns", type=int, default=2, help="processes of each kind, in turn (2)")
    parser.add_argument("--pixels", type=int, default=256, help="side of the image (256)")
    parser.add_argument("--only", choices=STAGES, help="this stage alone")
    parser.add_argument("--with-torch", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.with_torch:
        with_torch(options.with_torch, options.pixels, STAGES[options.with_torch], options.runs)
        return
    model = options.folder / "sd1-render.safetensors"
    if not model.exists():
        make = ROOT / "fixtures" / "render" / "make.py"
        subprocess.run([sys.executable, str(make), "--full", str(options.folder)], check=True)
    print("| call | ours, CPU s | PyTorch, CPU s | ratio | ours, s | PyTorch, s | our peak, MB | its peak, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for stage, batch in STAGES.items():
        if options.only not in (None, stage):
            continue
        ours, theirs = [], []
        for _ in range(options.turns):
            ours.append(measure([PROGRAM, model, stage, options.pixels, batch, options.runs]))
            arguments = ["--runs", options.runs, "--pixels", options.pixels, "--with-torch", stage]
            theirs.append(measure([sys.executable, __file__, options.folder, *arguments]))
        median = lambda found, name: statistics.median(value for turn in found for value in turn[name])
        least = lambda found: min(value for turn in found for value in turn["cpu"])
        peak = lambda found: max(turn["peak"] for turn in found) / 1e6
        cpu = median(ours, "cpu"), median(theirs, "cpu")
        print(
            f"| {stage} {options.pixels}x{options.pixels}, batch {batch} | {cpu[0]:.2f} (least {least(ours):.2f}) "
            f"| {cpu[1]:.2f} (least {least(theirs):.2f}) | **{cpu[0] / cpu[1]:.2f}** "
            f"| {median(ours, 'wall'):.2f} | {median(theirs, 'wall'):.2f} | {peak(ours):.0f} | {peak(theirs):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
