"""Compare the CPU time of a UNet step and of the VAE with PyTorch.

    cargo build --release -p trinart-ckpt-render --example render_speed
    python benches/render.py FOLDER [--family sdxl] [--runs 3] [--pixels 256] [--only unet]

Requires a Python with torch, diffusers, transformers and safetensors. Creates a model in FOLDER with random weights: SD v1 in
f32 (4.3 GB, `fixtures/render/make.py --full`, needs 10 GB of memory), or SDXL in f16, as it is published (5.3 GB, needs 6 GB
of memory). Both sides compute in f32, for which PyTorch needs 11 GB for SDXL.

Our processes and those of PyTorch alternate. Each makes a warm-up call before the measured calls. The comparison uses CPU
seconds of all threads, because wall time depends on the load of the machine. OpenMP threads sleep while they wait, so that
PyTorch's CPU time does not include waiting. The allocator keeps freed memory in both, as it does in the program. Peak memory
includes loading; PyTorch creates its weights in place and reads no file.
"""

import argparse
import json
import math
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


def make_sdxl(path):
    """Write a UNet and a VAE in the sizes of SDXL, with random weights in f16."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name in ("sdxl-unet.ldm.keys", "autoencoder.ldm.keys"):
        for line in (ROOT / "fixtures" / "layouts" / name).read_text(encoding="utf-8").splitlines():
            key, *rest = line.split()
            if not key.startswith(("model.diffusion_model.", "first_stage_model.")):
                continue
            shape = [int(size) for size in rest[1].split("x")]
            scale = 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            tensors[key] = (torch.randn(shape) * scale).half()
    save_file(tensors, path)


def with_torch(family, stage, pixels, batch, runs):
    """Print a line of JSON like render_speed."""
    import torch

    sys.path.insert(0, str(ROOT / "fixtures" / "render"))
    torch.set_grad_enabled(False)
    call = getattr(Calls, stage)(torch, family, pixels, batch)
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
    def unet(torch, family, pixels, batch):
        if family == "sdxl":
            return Calls.sdxl_unet(torch, pixels, batch)
        import make

        unet = make.full_unet()
        x, context = torch.randn(batch, 4, pixels // 8, pixels // 8), torch.randn(batch, 77, 768)
        return lambda: unet(x, torch.tensor(500.0), context).sample

    @staticmethod
    def sdxl_unet(torch, pixels, batch):
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).eval()
        x, context = torch.randn(batch, 4, pixels // 8, pixels // 8), torch.randn(batch, 77, 2048)
        added = {"text_embeds": torch.randn(batch, 1280), "time_ids": torch.randn(batch, 6)}
        return lambda: unet(x, torch.tensor(500.0), context, added_cond_kwargs=added).sample

    # The VAEs of both families have the same layers.
    @staticmethod
    def decode(torch, _, pixels, batch):
        import make

        vae = make.full_autoencoder()
        z = torch.randn(batch, 4, pixels // 8, pixels // 8)
        return lambda: vae.decode(z).sample

    @staticmethod
    def encode(torch, _, pixels, batch):
        import make

        vae = make.full_autoencoder()
        image = torch.randn(batch, 3, pixels, pixels)
        return lambda: vae.encode(image).latent_dist.mean


def measure(command):
    # The program asks glibc for the same in `src/cli/sys/unix.rs`.
    keeps_memory = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
    environment = dict(os.environ, OMP_WAIT_POLICY="passive", **keeps_memory)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--family", choices=("sd1", "sdxl"), default="sd1", help="the sizes of the model (default: sd1)")
    parser.add_argument("--runs", type=int, default=3, help="measured calls in each process (default: 3)")
    parser.add_argument("--turns", type=int, default=2, help="processes of each kind (default: 2)")
    parser.add_argument("--pixels", type=int, default=256, help="width and height of the image (default: 256)")
    parser.add_argument("--only", choices=STAGES, help="measure only this stage")
    parser.add_argument("--with-torch", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.with_torch:
        with_torch(options.family, options.with_torch, options.pixels, STAGES[options.with_torch], options.runs)
        return
    model = options.folder / f"{options.family}-render.safetensors"
    if not model.exists() and options.family == "sdxl":
        options.folder.mkdir(parents=True, exist_ok=True)
        make_sdxl(model)
    elif not model.exists():
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
            arguments = ["--family", options.family, "--runs", options.runs, "--pixels", options.pixels, "--with-torch", stage]
            theirs.append(measure([sys.executable, __file__, options.folder, *arguments]))
        median = lambda found, name: statistics.median(value for turn in found for value in turn[name])
        fastest = lambda found: min(value for turn in found for value in turn["cpu"])
        peak = lambda found: max(turn["peak"] for turn in found) / 1e6
        cpu = median(ours, "cpu"), median(theirs, "cpu")
        print(
            f"| {options.family} {stage} {options.pixels}x{options.pixels}, batch {batch} | {cpu[0]:.2f} (min {fastest(ours):.2f}) "
            f"| {cpu[1]:.2f} (min {fastest(theirs):.2f}) | **{cpu[0] / cpu[1]:.2f}** "
            f"| {median(ours, 'wall'):.2f} | {median(theirs, 'wall'):.2f} | {peak(ours):.0f} | {peak(theirs):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
