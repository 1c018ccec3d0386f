"""Builds PyTorch files whose tensors lie in different places, and judges what became of them.

    python roots.py FOLDER           saves the files of CASES to FOLDER, and prints their names as JSON
    python roots.py FOLDER OUTPUTS   compares OUTPUTS/NAME.safetensors and OUTPUTS/NAME.pt with what torch reads from
                                     FOLDER/NAME, and prints the differences as JSON
"""
import collections
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

torch.manual_seed(1)


def tensors(*names):
    return {name: torch.rand(3, 4) for name in names}


def linear():
    return collections.OrderedDict(tensors("linear.0.weight", "linear.0.bias"))


def flat(value, prefix=""):
    """The tensors of nested dicts and lists, with keys joined by dots."""
    if isinstance(value, torch.Tensor):
        return {prefix[:-1]: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {key: tensor for name, inner in items for key, tensor in flat(inner, f"{prefix}{name}.").items()}


def get_state_dict_from_checkpoint(checkpoint):
    """WebUI's rule, without its renaming: pop `state_dict`, then drop a nested one."""
    checkpoint = dict(checkpoint)
    state_dict = dict(checkpoint.pop("state_dict", checkpoint))
    state_dict.pop("state_dict", None)
    return state_dict


UNET = ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.input_blocks.1.0.in_layers.0.weight")
MODEL = tensors(*UNET, "first_stage_model.encoder.conv_in.weight")
TRAINING = {"epoch": 3, "optimizer_states": [{"state": {0: tensors("exp_avg", "exp_avg_sq")}}]}
PARAMETERS = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.rand(2, 768))})
HYPERNETWORK = {320: (linear(), linear()), 640: [linear(), linear()], "step": 10, "name": "style", "layer_structure": [1, 2, 1]}
IP_ADAPTER = {"image_proj": tensors("proj.weight", "norm.bias"), "ip_adapter": tensors("1.to_k_ip.weight", "3.to_v_ip.weight")}
PLAIN = tensors("conv_first.weight", "conv_first.bias")

# Name -> the object, the tensors of a safetensors file, and the path to them in a .pt file (None: the object itself).
CASES = {
    "webui": ({"state_dict": MODEL, **TRAINING}, MODEL, ["state_dict"]),
    "inner-empty": ({"state_dict": {**MODEL, "state_dict": {}}}, MODEL, ["state_dict"]),
    "inner-small": ({"state_dict": {"state_dict": tensors("x"), **MODEL}}, MODEL, ["state_dict"]),
    "beside-empty": ({**MODEL, "state_dict": {}}, MODEL, ["state_dict"]),
    "deep": ({"state_dict": {"state_dict": {"state_dict": MODEL}}}, MODEL, ["state_dict"]),
    "model": ({"model": MODEL, "step": torch.tensor(4), **TRAINING}, MODEL, ["state_dict"]),
    "module": ({"epoch": 1, "module": MODEL, "ema": MODEL}, MODEL, ["state_dict"]),
    "other-name": ({"my_network": MODEL, "optimizer": TRAINING["optimizer_states"]}, MODEL, ["state_dict"]),
    "ema-only": ({"ema": PLAIN, "step": 2}, PLAIN, ["ema"]),
    "two": ({"state_dict": MODEL, "model": tensors("a", "b", "c", "d")}, MODEL, ["state_dict"]),
    "alias": ({"ema": MODEL, "state_dict": MODEL}, MODEL, ["state_dict"]),
    "params-ema": ({"params": tensors("conv_first.weight"), "params_ema": PLAIN}, PLAIN, ["params_ema"]),
    "params": ({"params": PLAIN}, PLAIN, ["params"]),
    "net": ({"net": PLAIN, "iteration": 7}, PLAIN, ["net"]),
    "generator": ({"generator": PLAIN, "discriminator": tensors("d")}, PLAIN, ["generator"]),
    "bare": (PLAIN, PLAIN, []),
    "embedding": ({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": PARAMETERS["*"].detach()}, "name": "style", "step": 5}, {"*": PARAMETERS["*"].detach()}, ["string_to_param"]),
    "embedding-2022": ({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": PARAMETERS, "name": "style"}, {"*": PARAMETERS["*"].detach()}, ["string_to_param"]),
    "embedding-diffusers": ({"<style>": torch.rand(768)},) * 2 + ([],),
    "embedding-sdxl": ({"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)},) * 2 + ([],),
    "hypernetwork": (HYPERNETWORK, flat(HYPERNETWORK), None),
    "ip-adapter": (IP_ADAPTER, flat(IP_ADAPTER), None),
    "lists": ({"a": torch.rand(3), "l": [torch.rand(2), torch.rand(1)]},) * 2 + (None,),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def judge(folder, outputs, name):
    _, expected, path = CASES[name]
    given = torch.load(folder / f"{name}.ckpt", weights_only=False)
    found = load_file(outputs / f"{name}.safetensors")
    wanted = flat(expected)
    # Stored anew by every run of this script with the same seed, so that the values agree.
    if not same(dict(sorted(wanted.items())), dict(sorted(found.items()))):
        return f"safetensors: {list(found)[:5]} instead of {list(wanted)[:5]}"
    found = torch.load(outputs / f"{name}.pt", weights_only=True, mmap=True)
    if path is None:
        return None if same(given, found) else f"pt: another structure: {list(found)}"
    at = found
    for step in path:
        at = at[step]
    if not same(dict(expected), dict(at)):
        return f"pt: other tensors under {path}: {list(at)[:5]}"
    if path == ["state_dict"] and not same(get_state_dict_from_checkpoint(found), dict(expected)):
        return "pt: WebUI reads other tensors"
    return None


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) == 2:
        for name, (value, _, _) in CASES.items():
            torch.save(value, folder / f"{name}.ckpt")
        print(json.dumps(list(CASES)))
    else:
        faults = {name: judge(folder, pathlib.Path(sys.argv[2]), name) for name in CASES}
        print(json.dumps({name: fault for name, fault in faults.items() if fault}))
