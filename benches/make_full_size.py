"""Create full-size Stable Diffusion v1 files for benchmarks.

    target/peers/bin/python benches/make_full_size.py [--out DIR] [--dtype f32|f16]

    sd1-full.safetensors    1145 keys with their real shapes: 4.27 GB in f32
    sd1-full.ckpt           the same tensors under "state_dict", as torch.save writes them
    vae-full.ckpt           another VAE with its training loss, as Lightning writes it: 405 MB
    vae-full.vae.pt         the same VAE without the loss: 335 MB

Weights are random, with the key as the seed: two runs create the same tensors, and no two tensors are equal.
--dtype sets the dtype of the checkpoint; the VAE files are always f32. Needs 5 GB of memory and 9.3 GB of disk.
"""

import argparse
import pathlib
import sys

import safetensors.torch
import torch

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "fixtures"))

import sd1  # noqa: E402  (imported from the path above)

DTYPES = {"f32": torch.float32, "f16": torch.float16}


def full_state_dict(dtype):
    known = sd1.known_values()
    return {
        key: known[key] if key in known else sd1.random_weights(key, shape, dtype)
        for key, shape in sd1.shapes().items()
    }


def save_checkpoint(folder, dtype):
    tensors = full_state_dict(dtype)
    safetensors.torch.save_file(tensors, folder / "sd1-full.safetensors", metadata={"format": "pt"})
    content = {"epoch": 6, "global_step": 470_000, "state_dict": tensors}
    torch.save(content, folder / "sd1-full.ckpt")


def save_vae(folder):
    vae = {key: sd1.random_weights(f"custom/{key}", shape) for key, shape in sd1.vae_shapes().items()}
    torch.save(vae, folder / "vae-full.vae.pt")
    content = {
        "epoch": 3,
        "global_step": 90_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": {**vae, **sd1.random_vae_loss("custom", sd1.vae_loss_shapes())},
    }
    torch.save(content, folder / "vae-full.ckpt")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "target" / "bench")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Save the checkpoint first, so that its memory is freed before the VAE is created.
    save_checkpoint(options.out, DTYPES[options.dtype])
    save_vae(options.out)
    for path in sorted(options.out.glob("*-full.*")):
        print(f"{path.stat().st_size:>13,}  {path}")


if __name__ == "__main__":
    main()
