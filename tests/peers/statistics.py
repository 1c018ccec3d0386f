"""Prints the statistics of the tensors of a safetensors file, computed by torch in float64, as JSON.

    python -B statistics.py FILE
"""

import json
import sys

import torch
from safetensors import safe_open


def of(tensor):
    if tensor.is_complex():
        return None
    values = tensor.to(torch.float64).flatten()
    finite = values[torch.isfinite(values)]
    has_any = len(finite) > 0
    return {
        "min": finite.min().item() if has_any else None,
        "max": finite.max().item() if has_any else None,
        "mean": finite.mean().item() if has_any else None,
        "std": finite.std(unbiased=False).item() if has_any else None,
        "nan": int(values.isnan().sum()),
        "infinite": int(values.isinf().sum()),
        "zeros": int((values == 0).sum()),
    }


with safe_open(sys.argv[1], "pt") as file:
    print(json.dumps({key: of(file.get_tensor(key)) for key in file.keys()}))
