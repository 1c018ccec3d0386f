"""Prints how far the tensors of two safetensors files are apart, computed by numpy in float64, as JSON.

    python -B tensor_differences.py A B
"""

import json
import math
import sys

import numpy
import torch
from safetensors import safe_open


def number(value):
    return float(value) if math.isfinite(value) else None


def of(a, b):
    """The measures of tensors of one shape: of all pairs of finite values."""
    if a.shape != b.shape or a.is_complex() or b.is_complex():
        return None
    a, b = (tensor.to(torch.float64).numpy().flatten() for tensor in (a, b))
    close = int((~numpy.isclose(a, b, equal_nan=True)).sum())
    finite = numpy.isfinite(a) & numpy.isfinite(b)
    left_out = int((~finite).sum())
    a, b = a[finite], b[finite]
    norms = numpy.linalg.norm(a), numpy.linalg.norm(b)
    l2 = numpy.linalg.norm(a - b)
    return {
        "pairs": len(a),
        "non_finite_pairs": left_out,
        "not_close": close,
        "mean_abs": number(numpy.abs(a - b).mean()) if len(a) > 0 else None,
        "l2": number(l2),
        "relative_l2": number(l2 / norms[0]) if norms[0] > 0 else None,
        "cosine": number(a @ b / (norms[0] * norms[1])) if norms[0] * norms[1] > 0 else None,
    }


numpy.seterr(all="ignore")
with safe_open(sys.argv[1], "pt") as left, safe_open(sys.argv[2], "pt") as right:
    keys = set(left.keys()) & set(right.keys())
    print(json.dumps({key: of(left.get_tensor(key), right.get_tensor(key)) for key in keys}))
