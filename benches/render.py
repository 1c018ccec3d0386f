"""Compare the CPU time of a UNet step and of the VAE with PyTorch.

    cargo build --release -p trinart-ckpt-render --example render_speed
    python benches/render.py FOLDER [--runs 3] [--pixels 256] [--only unet]

Requires a Python with torch, diffusers, transformers and safetensors. Creates a model of the size of SD v1 in FOLDER, with
random weights (4.3 GB, `fixtures/render/make.py --full`), which needs 10 GB of memory.

Our processes and those of PyTorch alternate. Each makes a warm-up call before the measured calls. The comparison uses CPU
seconds of all threads, because wall time depends on the load of the machine. OpenMP threads sleep while they wait, so that
PyTorch's CPU time does not include waiting. Peak memory includes loading; PyTorch creates its weights in place and reads no
file.
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

# The batch of each stage. A UNet step computes the prompt and the negative prompt together.
STAGES = {"unet": 2, "decode": 1, "encode": 1}


def with_torch(stage, pixels, batch, runs):
    """Print a line of JSON like render_speed."""
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
    parser.add_argument("--runs", type=int, default=3, help="measured calls in each process (default: 3)")
    parser.add_argument("--turns", type=int, default=2, help="processes of each kind (default: 2)")
    parser.add_argument("--pixels", type=int, default=256, help="width and height of the image (default: 256)")
    parser.add_argument("--only", choices=STAGES, help="measure only this stage")
    parser.add_argument("--with-torch", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.with_torch:
        with_torch(options.with_torch, options.pixels, STAGES[options.with_torch], options.runs)
        return
    model = options.folder / "sd1-render.safetensors"
    if not model.exists():
        make = ROOT / "fixtures" / "render" / "make.py"
        subprocess.run([sys.executable, str(make), "--full", str(options.folder)], check=True)
    print("| call | ours, CPU s | PyTorch, CPU s | ratio | ours, s | PyTorch, s | our peak, MB | PyTorch peak, MB |")
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
        fastest = lambda found: min(value for turn in found for value in turn["cpu"])
        peak = lambda found: max(turn["peak"] for turn in found) / 1e6
        cpu = median(ours, "cpu"), median(theirs, "cpu")
        print(
            f"| {stage} {options.pixels}x{options.pixels}, batch {batch} | {cpu[0]:.2f} (min {fastest(ours):.2f}) "
            f"| {cpu[1]:.2f} (min {fastest(theirs):.2f}) | **{cpu[0] / cpu[1]:.2f}** "
            f"| {median(ours, 'wall'):.2f} | {median(theirs, 'wall'):.2f} | {peak(ours):.0f} | {peak(theirs):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
