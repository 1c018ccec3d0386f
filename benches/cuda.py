"""Compare render-check with PyTorch on the same NVIDIA GPU, with the same full-size weights. Never run on a GPU yet.

    cargo build --release --features cuda
    python benches/cuda.py FOLDER [--runs 3] [--only ours]

Requires a Python with torch (with CUDA), safetensors, diffusers and transformers. Creates a checkpoint of the size of SD v1
in FOLDER, with random f16 weights (2.1 GB). Measures one picture of 512x512 in f16 with guidance:

- it/s of the UNet: the median of 20 Euler steps, without the first two, which include recording and compilation;
- the decoding of a latent;
- the time from the start of the process to the finished PNG, for our program and for an equivalent PyTorch script with
  SDPA and channels-last (eager, and with torch.compile);
- peak GPU memory, as reserved by the allocator.

Processes alternate, `--runs` of each. The table shows the median, minimum and maximum. Random weights fail some checks of
render-check, which does not affect the times.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "fixtures" / "render"))
PROGRAM = ROOT / "target" / "release" / "trinart-ckpt"
STEPS, PIXELS, PROMPT, NEGATIVE = 20, 512, "1girl, cathedral, looking at viewer", "bad hands"


def make_checkpoint(path):
    """Write the model of `fixtures/render/make.py` in the size of SD v1, in f16."""
    import torch
    from safetensors.torch import save_file

    import make

    with torch.device("meta"):
        shapes = make.ldm_shapes(*make.models(full=True))
    save_file({key: make.values(key, shape).half() for key, shape in shapes.items()}, path)


def ours(checkpoint, folder, number):
    """Render with our program, and return the wall time and the values of its report."""
    picture = folder / f"ours-{number}.png"
    command = [PROGRAM, "render-check", checkpoint, "-o", picture, "--device", "cuda", "--dtype", "f16", "--sampler", "Euler"]
    command += ["--steps", STEPS, "--size", f"{PIXELS}x{PIXELS}", "--prompt", PROMPT, "--negative", NEGATIVE, "--json", "--force"]
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    wall = time.perf_counter() - start
    if not picture.exists():
        sys.exit(f"our program wrote no picture:\n{done.stdout}{done.stderr}")
    report = json.loads(done.stdout)
    steps = report["seconds"]["calls"][2:]
    return {
        "cold": wall,
        "rate": 1 / statistics.median(steps),
        "decode": report["seconds"]["decode"],
        "memory": report["peak_device_memory"] / 1e6,
        "device": report["device"],
    }


def theirs(folder, number, compiled):
    """Render with PyTorch in a new process; see `with_torch`."""
    picture = folder / f"torch-{compiled}-{number}.png"
    command = [sys.executable, __file__, str(folder), "--with-torch", "compile" if compiled else "eager", "--picture", str(picture)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if not picture.exists():
        sys.exit(f"PyTorch wrote no picture:\n{done.stdout}{done.stderr}")
    return {"cold": wall, **json.loads(done.stdout.strip().splitlines()[-1])}


def with_torch(checkpoint, picture, compiled):
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    import make

    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        unet, vae, clip = make.models(full=True)
    make.load(unet, vae, clip, load_file(str(checkpoint), device="cuda"))
    unet.to(memory_format=torch.channels_last)
    vae.to(memory_format=torch.channels_last)
    if compiled:
        unet = torch.compile(unet, mode="max-autotune", fullgraph=True)
    tokens = torch.full((2, 77), 49407, device="cuda")
    tokens[:, 0] = 49406
    context = clip(tokens).last_hidden_state
    del clip
    sigmas = torch.linspace(14.6146, 0.0292, STEPS).tolist() + [0.0]
    x = torch.randn(1, 4, PIXELS // 8, PIXELS // 8, device="cuda", dtype=torch.float32) * sigmas[0]
    steps = []
    for sigma, following in zip(sigmas, sigmas[1:]):
        torch.cuda.synchronize()
        start = time.perf_counter()
        scaled = (x / (sigma * sigma + 1) ** 0.5).half().repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        prompt, negative = unet(scaled, torch.tensor(500.0, device="cuda"), context, return_dict=False)[0].float().chunk(2)
        x = x + (negative + 7 * (prompt - negative)) * (following - sigma)
        torch.cuda.synchronize()
        steps.append(time.perf_counter() - start)
    start = time.perf_counter()
    image = vae.decode((x / 0.18215).half().contiguous(memory_format=torch.channels_last), return_dict=False)[0]
    pixels = ((image[0].float().permute(1, 2, 0).nan_to_num() + 1) / 2).clamp(0, 1).mul(255).byte().cpu()
    decode = time.perf_counter() - start
    Image.fromarray(pixels.numpy()).save(picture)
    found = {"rate": 1 / statistics.median(steps[2:]), "decode": decode, "memory": torch.cuda.max_memory_reserved() / 1e6}
    found["device"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("--only", choices=["ours"], help="measure only our program")
    parser.add_argument("--with-torch", choices=["eager", "compile"], help=argparse.SUPPRESS)
    parser.add_argument("--picture", help=argparse.SUPPRESS)
    options = parser.parse_args()
    checkpoint = options.folder / "sd1-f16.safetensors"
    if options.with_torch:
        with_torch(checkpoint, options.picture, options.with_torch == "compile")
        return
    if not checkpoint.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        make_checkpoint(checkpoint)
    kinds = {"ours": lambda folder, number: ours(checkpoint, folder, number)}
    if options.only != "ours":
        kinds["PyTorch, eager"] = lambda _, number: theirs(options.folder, number, False)
        kinds["PyTorch, torch.compile"] = lambda _, number: theirs(options.folder, number, True)
    found = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            for kind, run in kinds.items():
                found[kind].append(run(pathlib.Path(folder), number))
    print(f"{found['ours'][0]['device']}; {time.strftime('%Y-%m-%d')}; {PIXELS}x{PIXELS}, f16, {STEPS} steps, guidance")
    print("| | it/s | decode, s | cold start to PNG, s | peak GPU memory, MB |")
    print("|---|---:|---:|---:|---:|")
    for kind, runs in found.items():
        cells = []
        for name, digits in [("rate", 1), ("decode", 3), ("cold", 2), ("memory", 0)]:
            values = [run[name] for run in runs]
            cells.append(f"**{statistics.median(values):.{digits}f}** ({min(values):.{digits}f} to {max(values):.{digits}f})")
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
