"""Writes files for the tests of casts and of scaled fp8, and what torch makes of them.

    python quantized.py FOLDER

`NAME.safetensors` is an input. `NAME.DTYPE.safetensors` has its values in another dtype, as torch converts them.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}

# The largest magnitudes that round to a finite value. Beyond them, and for infinity in e4m3, versions of torch differ.
LARGEST = {"f8e4m3": 464.0, "f8e5m2": 61439.996}


def bits(count, dtype):
    """All values of a 16-bit dtype, or random 32 bits and their neighbours in the range of 8-bit floats."""
    if dtype != torch.float32:
        return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    torch.manual_seed(1)
    anywhere = torch.randint(-(1 << 31), 1 << 31, (count,), dtype=torch.int64).to(torch.int32).view(dtype)
    within = torch.randn(count) * torch.exp2(torch.randint(-20, 12, (count,)).float())
    # Ties and their neighbours.
    eighths = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0).sort().values
    middles = (eighths[1:] + eighths[:-1]) / 2
    ties = torch.cat([middles, middles.nextafter(torch.tensor(torch.inf)), middles.nextafter(torch.tensor(-torch.inf))])
    return torch.cat([anywhere, within, eighths, ties])


def casts(folder):
    for name in ("f8e4m3", "f8e5m2"):
        inputs, outputs, clamped = {}, {}, {}
        for source in ("f32", "f16", "bf16"):
            values = bits(200_000, DTYPES[source])
            if name == "f8e4m3":
                values = values[~values.isinf()]
            wide = values.float()
            fits = (wide.abs() <= LARGEST[name]) | ~wide.isfinite()
            inputs[f"{source}.weight"] = values[fits].clone()
            outputs[f"{source}.weight"] = values[fits].to(DTYPES[name])
            most = torch.finfo(DTYPES[name]).max
            finite = values[wide.isfinite()]
            clamped[f"{source}.weight"] = (finite, finite.float().clamp(-most, most).to(DTYPES[name]))
        save_file(inputs, folder / f"fits-{name}.safetensors")
        save_file(outputs, folder / f"fits-{name}.{name}.safetensors")
        save_file({key: pair[0] for key, pair in clamped.items()}, folder / f"all-{name}.safetensors")
        save_file({key: pair[1] for key, pair in clamped.items()}, folder / f"all-{name}.{name}.safetensors")


def spread(scale, shape, blocks):
    """The scale of each element of a weight."""
    match blocks:
        case "all":
            return scale.reshape([1] * len(shape)).expand(shape)
        case "rows":
            return scale.reshape([-1] + [1] * (len(shape) - 1)).expand(shape)
        case "parts":
            parts = scale.reshape(shape[0], -1)
            return parts.repeat_interleave(shape[1] // parts.shape[1], dim=1)
        case "tiles":
            return scale.repeat_interleave(128, 0)[: shape[0]].repeat_interleave(128, 1)[:, : shape[1]]


def scaled(folder):
    torch.manual_seed(2)
    e4m3, e5m2, unet = torch.float8_e4m3fn, torch.float8_e5m2, "model.diffusion_model."
    layers = [
        ("scalar", [24, 40], [], "scale_weight", torch.float32, e4m3, "all"),
        ("one", [24, 40], [1], "weight_scale", torch.float32, e4m3, "all"),
        ("half", [24, 40], [], "scale_weight", torch.float16, e4m3, "all"),
        ("brain", [24, 40], [1, 1], "scale_weight", torch.bfloat16, e4m3, "all"),
        ("rows", [24, 40], [24], "weight_scale", torch.float32, e4m3, "rows"),
        ("square", [24, 24], [24, 1], "scale_weight", torch.float32, e5m2, "rows"),
        ("convolution", [8, 4, 3, 3], [8, 1, 1, 1], "scale_weight", torch.float32, e4m3, "rows"),
        ("parts", [24, 64], [24, 4, 1], "scale_weight", torch.float32, e4m3, "parts"),
        ("tiles", [300, 200], [3, 2], "weight_scale_inv", torch.float32, e4m3, "tiles"),
    ]
    tensors = {unet + "scaled_fp8": torch.zeros(2, dtype=e4m3)}
    values = {}
    for name, shape, scales, spelling, scale_dtype, dtype, blocks in layers:
        scale = (torch.rand(scales) * 0.01 + 1e-4).to(scale_dtype)
        weight = torch.randn(shape) * 100
        tensors[f"{unet}{name}.weight"] = weight.to(dtype)
        tensors[f"{unet}{name}.{spelling}"] = scale
        tensors[f"{unet}{name}.bias"] = torch.randn(shape[0])
        values[f"{unet}{name}.weight"] = weight.to(dtype).float() * spread(scale.float(), shape, blocks)
        values[f"{unet}{name}.bias"] = tensors[f"{unet}{name}.bias"]
    description = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
    tensors[unet + "one.comfy_quant"] = torch.tensor(list(description), dtype=torch.uint8)
    tensors[unet + "one.input_scale"] = torch.tensor(0.5)
    # No scale means a scale of 1.
    tensors[unet + "plain.weight"] = torch.randn(24, 40).to(e4m3)
    tensors[unet + "plain.scale_input"] = torch.tensor(0.5)
    values[unet + "plain.weight"] = tensors[unet + "plain.weight"].float()
    save_file(tensors, folder / "scaled.safetensors")
    for name in ("f32", "f16", "bf16", "f8e5m2"):
        save_file({key: value.to(DTYPES[name]) for key, value in values.items()}, folder / f"scaled.{name}.safetensors")


def main():
    folder = pathlib.Path(sys.argv[1])
    casts(folder)
    scaled(folder)


main()
