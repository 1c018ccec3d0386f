"""Narrow ControlNets of each architecture, written by diffusers and converted by this program. Prints what the real
diffusers finds in the results, as JSON: {kind: [differences]}.

    python -B controlnets.py PROGRAM
"""

import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

WIDTHS = {"block_out_channels": (64, 64, 128, 128), "cross_attention_dim": 24}
XL = {
    "block_out_channels": (64, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 1280 + 6 * 8,
}
KINDS = {
    "sd1": {**WIDTHS, "attention_head_dim": 8},
    "sd1-one-channel": {**WIDTHS, "attention_head_dim": 8, "conditioning_channels": 1,
                        "conditioning_embedding_out_channels": (8, 16, 24, 40)},
    "sd1-shuffle": {**WIDTHS, "attention_head_dim": 8, "global_pool_conditions": True},
    "sd2": {**WIDTHS, "attention_head_dim": [1, 1, 2, 2], "use_linear_projection": True},
    "sdxl": {**WIDTHS, **XL, "attention_head_dim": [1, 1, 2], "use_linear_projection": True},
}


def run(program, *arguments):
    result = subprocess.run([program, "convert", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0 or result.stderr:
        raise RuntimeError(result.stderr)


def outputs(model):
    """What the network adds to a UNet."""
    generator = torch.Generator().manual_seed(1)
    config, draw = model.config, lambda *shape: torch.randn(shape, generator=generator)
    added = None
    if config.addition_embed_type:
        added = {"text_embeds": draw(2, 1280), "time_ids": draw(2, 6)}
    found = model(draw(2, 4, 8, 8), torch.tensor(7), encoder_hidden_states=draw(2, 5, config.cross_attention_dim),
                  controlnet_cond=draw(2, config.conditioning_channels, 64, 64), added_cond_kwargs=added,
                  return_dict=False)
    return [*found[0], found[1]]


def differences(what, model, other):
    own, found = model.state_dict(), other.state_dict()
    lines = [f"{what}: {key}" for key in own.keys() | found.keys()
             if key not in own or key not in found or not torch.equal(own[key], found[key])]
    if not lines and not all(map(torch.equal, outputs(model), outputs(other))):
        lines.append(f"{what}: other outputs")
    return lines


def judge(program, name, folder):
    model = ControlNetModel(**KINDS[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "source")
    weights = folder / "source/diffusion_pytorch_model.safetensors"
    file, plain, bare = (folder / f"{stem}.safetensors" for stem in ("file", "plain", "bare"))
    run(program, folder / "source", "-o", file)
    run(program, weights, "-o", plain, "--component", "controlnet")
    # As other programs store it: without the prefix.
    save_file({key.removeprefix("control_model."): tensor for key, tensor in load_file(plain).items()}, bare)
    lines = []
    if name != "sdxl":  # diffusers leaves out the extra conditioning of SDXL
        for source in (file, plain, bare):
            opened = ControlNetModel.from_single_file(str(source), config=str(folder / "source"), local_files_only=True)
            lines += differences(f"from_single_file {source.stem}", model, opened)
    for source in (file, plain, bare, weights, folder / "source"):
        output = folder / "back"
        run(program, source, "-o", output, "--to", "diffusers", "--force")
        opened = ControlNetModel.from_pretrained(str(output), local_files_only=True)
        # Only the configuration of the folder shows it.
        if name != "sd1-shuffle" or source in (file, folder / "source"):
            lines += differences(f"from_pretrained {source.name}", model, opened)
        if (output / weights.name).read_bytes() != weights.read_bytes():
            lines.append(f"{source.name}: other bytes")
    return lines


def main(program):
    logging.disable(logging.WARNING)
    found = {}
    for name in KINDS:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = judge(program, name, pathlib.Path(folder))
            except Exception as error:  # a model that does not open is a result
                found[name] = [f"{error!r}"[:600]]
    print(json.dumps(found))


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])
