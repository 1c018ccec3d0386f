"""Writes a narrow SD v1 checkpoint that renders, with the shapes in fixtures/render/tiny-sd1.json. Its checks pass.

usage: model.py OUTPUT.safetensors
"""

import array
import json
import math
import pathlib
import random
import struct
import sys

SHAPES = pathlib.Path(__file__).parents[2] / "fixtures/render/tiny-sd1.json"
UNET = "model.diffusion_model."


def weights(key, shape):
    """Random weights of variance 1/n. The UNet predicts the noise in its input, with the trick that `weights` in
    tests/it/render_check.rs explains."""
    count = math.prod(shape)
    row = count // shape[0] if len(shape) > 1 else 1
    name = key.removeprefix(UNET)
    if name in (
        "output_blocks.11.0.out_layers.3.weight",
        "output_blocks.11.0.out_layers.3.bias",
        "output_blocks.11.0.skip_connection.bias",
        "output_blocks.11.1.proj_out.bias",
        "input_blocks.0.0.bias",
        "out.0.bias",
        "out.2.bias",
    ):
        return array.array("f", bytes(4 * count))
    if name == "out.0.weight":
        return array.array("f", [0.93]) * count
    draw = random.Random(key).random
    fan_in = max(math.prod(shape[1:]), 1)
    scale = min(math.sqrt(3 / fan_in), 0.5) * (0.05 if name == "output_blocks.11.1.proj_out.weight" else 1)
    center = 1 if len(shape) == 1 and key.endswith("weight") else 0
    values = array.array("f", ((2 * draw() - 1) * scale + center for _ in range(count)))
    each = math.prod(shape[2:])

    def put(out, channel, value, offset):
        values[out * row + channel * each + offset] = value

    if name == "input_blocks.0.0.weight":
        values[: 8 * row] = array.array("f", bytes(4 * 8 * row))
        for out in range(8):
            put(out, out % 4, 1 if out < 4 else -1, 4)
    if name == "output_blocks.11.0.skip_connection.weight":
        values = array.array("f", bytes(4 * count))
        for out in range(shape[0]):
            put(out, shape[1] - shape[0] + out, 1, 0)
    if name == "out.2.weight":
        values = array.array("f", bytes(4 * count))
        for channel in range(4):
            put(channel, channel, 1, 4)
            put(channel, channel + 4, -1, 4)
    return values


shapes = json.loads(SHAPES.read_text())
header, end = {}, 0
for key, shape in shapes.items():
    start, end = end, end + 4 * math.prod(shape)
    header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for key, shape in shapes.items():
        weights(key, shape).tofile(file)
