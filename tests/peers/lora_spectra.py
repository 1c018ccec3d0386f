"""Writes LoRAs of many ranks and shapes in kohya's names to FILE, and prints the singular values of each change, computed by
torch in float64, as JSON: {module: {values, down, up, norm}}.

    python -B lora_spectra.py FILE
"""

import json
import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(7)
QUERY = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_attn1_to_q"
# Ranks, columns with the kernel, rows.
SHAPES = [(1, (320,), 320), (4, (320,), 1280), (16, (768,), 320), (64, (640,), 640), (8, (4, 3, 3), 32), (40, (4, 3, 3), 32),
          (128, (300,), 200), (260, (1100,), 40)]


def decaying(rows, columns, fall):
    """A random matrix whose singular values fall to `fall` of the first one."""
    left = torch.linalg.qr(torch.randn(rows, min(rows, columns), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, min(rows, columns), dtype=torch.float64)).Q
    values = torch.logspace(0, torch.log10(torch.tensor(fall)).item(), min(rows, columns), dtype=torch.float64)
    return left @ torch.diag(values) @ right.T


tensors, expected = {}, {}
for index, (ranks, columns, rows) in enumerate(SHAPES):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        module = QUERY.format(index) + {torch.float32: "", torch.float16: "_h", torch.bfloat16: "_b"}[dtype]
        down = torch.randn(ranks, *columns, dtype=torch.float64) / 10
        up = decaying(rows, ranks, 1e-3)
        up = up.reshape(rows, ranks, *(1 for _ in columns[1:]))
        tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"] = down.to(dtype), up.to(dtype)
        tensors[f"{module}.alpha"] = torch.tensor(ranks / 2, dtype=dtype)
zero = QUERY.format(99)
tensors[f"{zero}.lora_down.weight"], tensors[f"{zero}.lora_up.weight"] = torch.randn(4, 320), torch.zeros(320, 4)
tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
save_file(tensors, sys.argv[1])
for key in tensors:
    module, _, name = key.partition(".")
    if name == "lora_down.weight":
        down = tensors[key].to(torch.float64).flatten(1)
        up = tensors[f"{module}.lora_up.weight"].to(torch.float64).flatten(1)
        values = torch.linalg.svdvals(up @ down)[: down.shape[0]]
        expected[module] = {"values": values.tolist(), "down": down.norm().item(), "up": up.norm().item(),
                            "norm": (up @ down).norm().item()}
print(json.dumps(expected))
