"""Prints the statistics of the tensors of a safetensors file, computed by torch in float64, as JSON.

    python -B tensor_statistics.py FILE
"""

import json
import math
import sys

import torch
from safetensors import safe_open


def of(tensor):
    if tensor.is_complex():
        return None
    values = tensor.to(torch.float64).flatten()
    finite = values[torch.isfinite(values)]

    def number(compute):
        value = compute(finite).item() if len(finite) > 0 else math.nan
        return value if math.isfinite(value) else None

    return {
        "min": number(torch.min),
        "max": number(torch.max),
        "mean": number(torch.mean),
        "std": number(lambda values: values.std(unbiased=False)),
        "nan": int(values.isnan().sum()),
        "infinite": int(values.isinf().sum()),
        "zeros": int((values == 0).sum()),
    }


with safe_open(sys.argv[1], "pt") as file:
    print(json.dumps({key: of(file.get_tensor(key)) for key in file.keys()}))
