"""Image encoders of CLIP alone in a file, narrow but for ViT-bigG, whose width shows its heads, in names of transformers and of OpenCLIP.
Prints how far the folders that this program makes of them are from the originals, as JSON: {name: largest difference}.

    python -B image_encoders.py PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.utils import logging

# Layers, width, heads, projection, activation and spellings.
KINDS = {
    "ViT-L": (24, 128, 2, 96, "quick_gelu", ["transformers"]),
    "ViT-H": (32, 160, 2, 128, "gelu", ["transformers", "OpenCLIP"]),
    "ViT-bigG": (48, 1664, 16, 1280, "gelu", ["OpenCLIP"]),
}


def open_clip(tensors):
    """Returns the tensors in names of OpenCLIP, as its visual.transformer has them."""
    found = {}
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
              "self_attn.out_proj": "attn.out_proj"}
    names = {"vision_model.embeddings.class_embedding": "visual.class_embedding",
             "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
             "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight"}
    for key, tensor in tensors.items():
        if key == "visual_projection.weight":
            found["visual.proj"] = tensor.T.contiguous()
        elif key in names:
            found[names[key]] = tensor
        elif ".encoder.layers." in key:
            number, rest = key.split(".encoder.layers.")[1].split(".", 1)
            name, leaf = rest.rsplit(".", 1)
            if name in layers:
                found[f"visual.transformer.resblocks.{number}.{layers[name]}.{leaf}"] = tensor
            elif name == "self_attn.q_proj":
                parts = [tensors[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                found[f"visual.transformer.resblocks.{number}.attn.in_proj_{leaf}"] = torch.cat(parts)
        else:
            found[key.replace("vision_model.pre_layrnorm", "visual.ln_pre")
                  .replace("vision_model.post_layernorm", "visual.ln_post")] = tensor
    return found


def main():
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind, (layers, width, heads, projection, activation, spellings) in KINDS.items():
            config = CLIPVisionConfig(
                hidden_size=width, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=heads,
                image_size=28, patch_size=14, projection_dim=projection, hidden_act=activation)
            model = CLIPVisionModelWithProjection(config).eval()
            model.save_pretrained(folder / "reference")
            tensors = load_file(folder / "reference/model.safetensors")
            pixels = torch.randn(2, 3, 28, 28)
            for spelling in spellings:
                source, output = folder / "in.safetensors", folder / f"{kind}-{spelling}"
                save_file(open_clip(tensors) if spelling == "OpenCLIP" else tensors, source)
                command = [sys.argv[1], "convert", source, "-o", output, "--to", "diffusers", "--quiet"]
                subprocess.run(command, check=True)
                read, info = CLIPVisionModelWithProjection.from_pretrained(output, output_loading_info=True)
                odd = {key: sorted(value) for key, value in info.items() if value}
                with torch.no_grad():
                    apart = (model(pixels).image_embeds - read.eval()(pixels).image_embeds).abs().max().item()
                found[f"{kind} {spelling}"] = odd or apart
    print(json.dumps(found))


if __name__ == "__main__":
    main()
