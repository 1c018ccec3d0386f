"""LoRAs of narrow models, written by the real PEFT and diffusers, and converted by this program between
the names of kohya, diffusers and PEFT. Prints what diffusers and PEFT find in the results, as JSON: {kind: [differences]}.

    python -B loras.py PROGRAM
"""

import copy
import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers.integrations.peft
from diffusers import (AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline,
                       UNet2DConditionModel)
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

WIDTHS = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 8, "norm_num_groups": 8}
XL = {
    "block_out_channels": (32, 32, 64), "cross_attention_dim": 40, "attention_head_dim": [1, 1, 2], "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LAYERS = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj", "conv_in"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
KINDS = {
    "sd1": (StableDiffusionPipeline, {**WIDTHS}, LAYERS, {}),
    "sd1-locon": (StableDiffusionPipeline, {**WIDTHS}, LAYERS + CONVOLUTIONS, {"lora_alpha": 1}),
    "sd1-patterns": (StableDiffusionPipeline, {**WIDTHS}, LAYERS,
                     {"rank_pattern": {"to_q": 8, "fc1": 2}, "alpha_pattern": {"to_q": 3, "fc2": 0.5}}),
    "sd1-dora": (StableDiffusionPipeline, {**WIDTHS}, LAYERS + CONVOLUTIONS, {"use_dora": True}),
    "sd2": (StableDiffusionPipeline, {**WIDTHS, "use_linear_projection": True}, LAYERS, {}),
    "sdxl": (StableDiffusionXLPipeline, XL, LAYERS + ["conv1", "time_emb_proj"], {}),
}
# Releases of transformers ask for releases of PEFT that come later.
transformers.integrations.peft.check_peft_version = lambda **_: None
# Of files in kohya's names, diffusers leaves out the magnitudes of DoRA, and the alphas of attention layers that differ from
# most others.
READS_KOHYA = [kind for kind in KINDS if kind not in ("sd1-dora", "sd1-patterns")]


def run(program, *arguments):
    result = subprocess.run([program, "convert", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0 or result.stderr:
        raise RuntimeError(f"{arguments}: {result.stderr}")


def text_encoder(kind, layers, width):
    config = CLIPTextConfig(vocab_size=64, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                            num_attention_heads=2, max_position_embeddings=16, projection_dim=16)
    return kind(config)


def pipeline(kind):
    pipe, config, _, _ = KINDS[kind]
    torch.manual_seed(1)
    parts = {
        "unet": UNet2DConditionModel(**config), "scheduler": DDIMScheduler(), "tokenizer": None,
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        "text_encoder": text_encoder(CLIPTextModel, 23 if kind == "sd2" else 12, 24),
    }
    if pipe is StableDiffusionXLPipeline:
        parts |= {"text_encoder_2": text_encoder(CLIPTextModelWithProjection, 32, 16), "tokenizer_2": None}
        parts |= {"add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return pipe(**parts)


def networks(pipe):
    found = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": getattr(pipe, "text_encoder_2", None)}
    return {name: network for name, network in found.items() if network is not None}


def train(kind, folder):
    """Writes a LoRA as diffusers and PEFT do. Returns the weights with it."""
    _, _, layers, options = KINDS[kind]
    pipe = pipeline(kind)
    states, metadata, merged = {}, {}, {}
    for name, network in networks(pipe).items():
        torch.manual_seed(len(name))
        own = options if name == "unet" else {field: value for field, value in options.items() if field != "use_dora"}
        config = LoraConfig(r=4, target_modules=layers if name == "unet" else TEXT, init_lora_weights=False,
                            **({"lora_alpha": 2} | own))
        network.add_adapter(config)
        for key, tensor in network.named_parameters():
            if "lora" in key:
                tensor.data = torch.randn_like(tensor) / 8 + (1 if "magnitude" in key else 0)
        states[name] = get_peft_model_state_dict(network)
        metadata[name] = network.peft_config["default"].to_dict()
        network.peft_config["default"].save_pretrained(folder / f"{name}-peft")
        save_file({f"base_model.model.{key}": tensor.contiguous() for key, tensor in states[name].items()},
                  folder / f"{name}-peft/adapter_model.safetensors", metadata={"format": "pt"})
    written = {f"{name}_lora_layers": state for name, state in states.items()}
    written |= {f"{name}_lora_adapter_metadata": data for name, data in metadata.items()}
    type(pipe).save_lora_weights(folder / "diffusers", **written)
    return fused(pipe)


def fused(pipe):
    from peft.tuners.tuners_utils import BaseTunerLayer
    merged = {}
    for name, network in networks(pipe).items():
        for module in network.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
        merged[name] = {key.replace(".base_layer", ""): tensor for key, tensor in network.state_dict().items()
                        if "lora" not in key}
    return merged


def loaded(kind, path):
    """The weights with a LoRA that diffusers loads."""
    pipe = pipeline(kind)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    return fused(pipe)


def of_peft(kind, name, folder):
    """The weights of a network with an adapter that PEFT loads."""
    network = networks(pipeline(kind))[name]
    network = PeftModel.from_pretrained(copy.deepcopy(network), str(folder)).merge_and_unload()
    return {name: network.state_dict()}


def differences(what, expected, found):
    lines = []
    for name, weights in found.items():
        lines += [f"{what}: {name} {key}" for key in weights.keys() ^ expected[name].keys()]
        lines += [f"{what}: {name} {key} {(weights[key] - own).abs().max():e}" for key, own in expected[name].items()
                  if key in weights and not torch.allclose(weights[key], own, atol=2e-5, rtol=1e-4)]
    return lines


def same(what, a, b):
    a_tensors, b_tensors = load_file(a), load_file(b)
    with safe_open(a, "pt") as one, safe_open(b, "pt") as other:
        texts = [one.metadata() or {}, other.metadata() or {}]
    lines = [f"{what}: {key}" for key in a_tensors.keys() | b_tensors.keys()
             if key not in a_tensors or key not in b_tensors or a_tensors[key].dtype != b_tensors[key].dtype
             or not torch.equal(a_tensors[key], b_tensors[key])]
    return lines + ([f"{what}: metadata {texts}"] if texts[0] != texts[1] else [])


def misfits(program, model, *loras):
    """The LoRAs that do not fit the pipeline that they were trained on, whatever their names."""
    lines = []
    for lora in loras:
        result = subprocess.run([program, "inspect", lora, "--for", model, "--json"], capture_output=True, text=True)
        fit = json.loads(result.stdout)["files"][0].get("lora_fit")
        if result.returncode != 0 or not fit["fits"]:
            lines.append(f"fit of {lora.relative_to(model.parent)}: {fit} {result.stderr}")
    return lines


def check(program, kind, folder):
    expected = train(kind, folder)
    plain = pipeline(kind)
    plain.save_pretrained(folder / "pipeline")
    if all(torch.equal(tensor, expected["unet"][key]) for key, tensor in plain.unet.state_dict().items()):
        return ["the LoRA changes nothing"]
    source = folder / "diffusers/pytorch_lora_weights.safetensors"
    files = {name: folder / f"{name}.safetensors" for name in ["kohya", "again", "back", "kohya-2", "f16", "f16-back"]}
    run(program, source, "-o", files["kohya"], "--lora-names", "kohya")
    run(program, files["kohya"], "-o", files["back"], "--lora-names", "diffusers")
    run(program, files["back"], "-o", files["again"], "--lora-names", "kohya")
    lines = same("kohya again", files["kohya"], files["again"])
    # Kohya's trainer writes everything in one dtype and its own metadata.
    halves = {key: tensor.half() for key, tensor in load_file(files["kohya"]).items()}
    save_file(halves, files["f16"], metadata={"ss_network_dim": "4", "ss_tag_frequency": "{}"})
    run(program, files["f16"], "-o", files["f16-back"], "--lora-names", "diffusers")
    run(program, files["f16-back"], "-o", files["kohya-2"], "--lora-names", "kohya")
    if files["f16"].read_bytes()[8 + 8:].split(b"}}}")[-1] and same("f16", files["f16"], files["kohya-2"]):
        lines += same("f16", files["f16"], files["kohya-2"])
    lines += misfits(program, folder / "pipeline", source, files["kohya"], files["back"])
    lines += differences("diffusers as written", expected, loaded(kind, source))
    lines += differences("diffusers converted", expected, loaded(kind, files["back"]))
    if kind in READS_KOHYA:
        lines += differences("kohya", expected, loaded(kind, files["kohya"]))
    for name in expected:
        adapter = folder / f"{name}-peft/adapter_model.safetensors"
        output = folder / f"out/{name}"
        output.mkdir(parents=True)
        prefix = {"unet": "lora_unet_*", "text_encoder": "lora_te*", "text_encoder_2": "lora_te2_*"}[name]
        drop = ["--drop", "lora_te2_*"] if name == "text_encoder" and "text_encoder_2" in expected else []
        run(program, files["kohya"], "--select", prefix, *drop, "-o", output / "adapter_model.safetensors",
            "--lora-names", "peft")
        part = folder / f"{name}-kohya.safetensors"
        folder_of = folder / f"named/{name}"
        folder_of.mkdir(parents=True)
        for file in adapter.parent.iterdir():
            (folder_of / file.name).write_bytes(file.read_bytes())
        run(program, folder_of / "adapter_model.safetensors", "-o", part, "--lora-names", "kohya")
        whole = load_file(files["kohya"])
        if "text_encoder_2" in expected:
            # The names of PEFT do not tell the only text encoder of SD v1 from the first one of SDXL.
            whole = {key.replace("lora_te1_", "lora_te_"): tensor for key, tensor in whole.items()}
        lines += [f"kohya of PEFT: {key}" for key, tensor in load_file(part).items() if not torch.equal(tensor, whole[key])]
        again = folder / f"again/{name}"
        again.mkdir(parents=True)
        run(program, part, "-o", again / "adapter_model.safetensors", "--lora-names", "peft")
        lines += [f"PEFT again: {line}" for line in same(name, adapter, again / "adapter_model.safetensors")
                  if "metadata" not in line]
        if (again / "adapter_config.json").read_bytes() != (adapter.parent / "adapter_config.json").read_bytes():
            lines.append(f"PEFT again: {name} configuration")
        lines += misfits(program, folder / "pipeline", adapter, part, output / "adapter_model.safetensors")
        lines += differences("PEFT as written", expected, of_peft(kind, name, adapter.parent))
        lines += differences("PEFT", expected, of_peft(kind, name, output))
    return lines


def main(program):
    logging.disable(logging.WARNING)
    found = {}
    for kind in sys.argv[2:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = check(program, kind, pathlib.Path(folder))[:12]
    print(json.dumps(found))


main(sys.argv[1])
