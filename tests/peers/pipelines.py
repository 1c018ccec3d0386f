"""Converts narrow diffusers folders of every kind with this program, and renders with the results in the real diffusers.

    python pipelines.py PROGRAM [KIND…]

Each kind is saved by diffusers in F16, converted to a single file and back to a folder, or from folder to folder. The new
folder is opened with its own class and, from the same components, with another class that fits. Prints by kind as JSON the
classes that rendered, and what differs from the original: pictures and configurations must be equal.
"""
import functools
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import diffusers
import numpy as np
import torch
import transformers
from diffusers.utils import logging
from PIL import Image

logging.set_verbosity_error()
logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
torch.set_grad_enabled(False)

MERGES = pathlib.Path(__file__).resolve().parents[2] / "crates/models/src/merges.txt.gz"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EDM = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}


def network(kind, seed, **config):
    """A UNet or a VAE. Its own initialization would take longer than the test."""
    with torch.device("meta"):
        made = kind(**config)
    return filled(made.to_empty(device="cpu"), seed)


def filled(made, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return made.eval().half()


def bytes_to_unicode():
    """The characters that CLIP's vocabulary writes bytes as."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def save_vocabulary(folder):
    merges = [line for line in gzip.open(MERGES, "rt", encoding="utf-8").read().split("\n") if line]
    merges = [line for line in merges if not line.startswith("#version")][:48894]
    single = bytes_to_unicode()
    vocabulary = single + [token + "</w>" for token in single] + ["".join(line.split()) for line in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def text(width, layers, activation, projection, seed, is_projected=False):
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        vocab_size=49408, hidden_act=activation, projection_dim=projection, bos_token_id=0, eos_token_id=2,
    )
    encoder = transformers.CLIPTextModelWithProjection if is_projected else transformers.CLIPTextModel
    return filled(encoder(config), seed)


def vae(**config):
    return network(
        diffusers.AutoencoderKL, 3,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64), layers_per_block=2, latent_channels=4, norm_num_groups=16, sample_size=64,
        **config,
    )


def sd_unet(channels, context, **config):
    heads = [1, 1, 1, 1] if config.get("use_linear_projection") else 8
    return network(
        diffusers.UNet2DConditionModel, 1, sample_size=8, in_channels=channels, block_out_channels=(32, 64, 64, 64), cross_attention_dim=context,
        attention_head_dim=heads, **config,
    )


XL_BLOCKS = {
    "block_out_channels": (32, 64, 64), "attention_head_dim": [1, 1, 1],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 96, "projection_class_embeddings_input_dim": 112,
}
SMALL = {"mid_block_type": "UNetMidBlock2D"}
SSD = {**SMALL, "transformer_layers_per_block": [1, [2, 2], [4, 4]],
       "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]}
VEGA = {**SMALL, "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1]}
REFINER = {
    "block_out_channels": (32, 64, 64, 64), "attention_head_dim": [1, 1, 1, 1], "cross_attention_dim": 64,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4, "projection_class_embeddings_input_dim": 104,
}


def xl_unet(channels, **config):
    config = {**XL_BLOCKS, **config}
    return network(
        diffusers.UNet2DConditionModel, 1,
        sample_size=8, in_channels=channels, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, **config,
    )


@functools.cache
def base_unet():
    return xl_unet(4)


def video():
    unet = network(
        diffusers.UNetSpatioTemporalConditionModel, 1, sample_size=8, block_out_channels=(32, 64, 64, 64),
        num_attention_heads=(1, 1, 1, 1), cross_attention_dim=64, addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24, num_frames=14)
    decoder = network(
        diffusers.AutoencoderKLTemporalDecoder, 3, block_out_channels=(32, 64, 64, 64), layers_per_block=2, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4)
    vision = transformers.CLIPVisionConfig(
        hidden_size=80, intermediate_size=96, num_hidden_layers=32, num_attention_heads=1, image_size=224, patch_size=14,
        projection_dim=64, hidden_act="gelu")
    scheduler = euler(
        interpolation_type="linear", prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True)
    return diffusers.StableVideoDiffusionPipeline(
        unet=unet, vae=decoder, scheduler=scheduler, feature_extractor=transformers.CLIPImageProcessor(),
        image_encoder=filled(transformers.CLIPVisionModelWithProjection(vision), 4))


class Maker:
    def __init__(self, folder):
        save_vocabulary(folder)
        files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
        tokenizer = lambda pad: transformers.CLIPTokenizer(*files, pad_token=pad, model_max_length=77)
        self.tokenizer, self.tokenizer_2 = tokenizer("<|endoftext|>"), tokenizer("!")
        self.text = text(32, 12, "quick_gelu", 32, 2)
        self.text_h = text(64, 23, "gelu", 512, 2)
        self.text_g = text(64, 32, "gelu", 64, 5, is_projected=True)

    def single(self):
        """Makes the text encoders narrow again after a render in F32."""
        for shared in (self.text, self.text_h, self.text_g, base_unet()):
            shared.half()

    def sd1(self, name, channels=4, scheduler=None):
        pndm = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
        return self.sd(name, sd_unet(channels, 32), self.text, self.tokenizer, scheduler or pndm)

    def sd2(self, name, channels=4, scheduler=None, **config):
        ddim = diffusers.DDIMScheduler(
            **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=config.pop("p", "epsilon"))
        unet = sd_unet(channels, 64, use_linear_projection=True, **config)
        return self.sd(name, unet, self.text_h, self.tokenizer_2, scheduler or ddim)

    def sd(self, name, unet, text, tokenizer, scheduler):
        parts = {"vae": vae(), "text_encoder": text, "tokenizer": tokenizer, "unet": unet, "scheduler": scheduler}
        pipeline = getattr(diffusers, name)
        if name == "StableDiffusionDepth2ImgPipeline":
            return pipeline(**parts, **depth())
        return pipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)

    def xl(self, name, unet, scheduler=None, own_vae=None, **more):
        euler = diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading")
        is_refiner = unet.config.cross_attention_dim == 64
        return getattr(diffusers, name)(
            vae=own_vae or vae(scaling_factor=0.13025), unet=unet, scheduler=scheduler or euler, text_encoder_2=self.text_g,
            text_encoder=None if is_refiner else self.text, tokenizer=None if is_refiner else self.tokenizer,
            tokenizer_2=self.tokenizer_2, **more,
        )


def depth():
    config = transformers.DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
    )
    extractor = transformers.DPTImageProcessor(size={"height": 32, "width": 32}, do_resize=True)
    return {"depth_estimator": filled(transformers.DPTForDepthEstimation(config), 8), "feature_extractor": extractor}


def euler(**config):
    return diffusers.EulerDiscreteScheduler(**SCHEDULE, **config)


def playground():
    mean, deviation = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    return {"scheduler": scheduler, "own_vae": vae(scaling_factor=0.5, latents_mean=mean, latents_std=deviation)}


SD, XL = "StableDiffusion", "StableDiffusionXL"
V_ZERO = {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
KINDS = {
    "sd1": lambda it: it.sd1(f"{SD}Pipeline"),
    "sd1-inpainting": lambda it: it.sd1(f"{SD}InpaintPipeline", 9),
    "sd1-pix2pix": lambda it: it.sd1(
        f"{SD}InstructPix2PixPipeline", 8, diffusers.EulerAncestralDiscreteScheduler(**SCHEDULE)),
    "sd2-v": lambda it: it.sd2(f"{SD}Pipeline", p="v_prediction"),
    "sd2-inpainting": lambda it: it.sd2(f"{SD}InpaintPipeline", 9),
    "sd2-depth": lambda it: it.sd2(f"{SD}Depth2ImgPipeline", 5),
    "sd-turbo": lambda it: it.sd2(f"{SD}Pipeline", scheduler=euler(timestep_spacing="trailing", steps_offset=1)),
    "sdxl": lambda it: it.xl(f"{XL}Pipeline", base_unet()),
    "sdxl-v": lambda it: it.xl(f"{XL}Pipeline", base_unet(), euler(steps_offset=1, **V_ZERO)),
    "sdxl-turbo": lambda it: it.xl(
        f"{XL}Pipeline", base_unet(), diffusers.EulerAncestralDiscreteScheduler(**SCHEDULE, timestep_spacing="trailing")),
    "sdxl-inpainting": lambda it: it.xl(f"{XL}InpaintPipeline", xl_unet(9)),
    "sdxl-pix2pix": lambda it: it.xl(f"{XL}InstructPix2PixPipeline", xl_unet(8)),
    "cosxl": lambda it: it.xl(f"{XL}Pipeline", base_unet(), diffusers.EDMEulerScheduler(**EDM, sigma_schedule="exponential")),
    "playground": lambda it: it.xl(f"{XL}Pipeline", base_unet(), **playground()),
    "refiner": lambda it: it.xl(
        f"{XL}Img2ImgPipeline", xl_unet(4, **REFINER), requires_aesthetics_score=True, force_zeros_for_empty_prompt=False),
    "ssd-1b": lambda it: it.xl(f"{XL}Pipeline", xl_unet(4, **SSD)),
    "vega": lambda it: it.xl(f"{XL}Pipeline", xl_unet(4, **VEGA)),
    "svd": lambda it: video(),
}


IMAGE = Image.fromarray((np.arange(64 * 64 * 3).reshape(64, 64, 3) * 7 % 256).astype("uint8"))
MASK = Image.fromarray(((np.arange(64 * 64).reshape(64, 64) // 32) % 2 * 255).astype("uint8"))


def picture(pipeline):
    name = type(pipeline).__name__
    pipeline.set_progress_bar_config(disable=True)
    if name == "StableVideoDiffusionPipeline":
        generator = torch.Generator().manual_seed(1)
        return pipeline(
            IMAGE, height=64, width=64, num_frames=2, num_inference_steps=2, output_type="np", generator=generator).frames[0]
    arguments = {"prompt": "a cat", "num_inference_steps": 1, "output_type": "np", "guidance_scale": 1.0}
    arguments["generator"] = torch.Generator().manual_seed(1)
    if "Inpaint" in name:
        arguments.update(image=IMAGE, mask_image=MASK, height=64, width=64, num_inference_steps=2, strength=1.0)
    elif "Pix2Pix" in name:
        arguments.update(image=IMAGE)
    elif "2Img" in name:
        arguments.update(image=IMAGE, strength=1.0)
    else:
        arguments.update(height=64, width=64)
    return pipeline(**arguments).images[0]


def other_class(pipeline, number):
    """Another class for the same components: what a UNet of 4 channels can do besides text to image."""
    if pipeline.unet.config.in_channels != 4 or "EDM" in type(pipeline.scheduler).__name__:
        return None
    kind = XL if hasattr(pipeline, "text_encoder_2") else SD
    names = [f"{kind}{task}Pipeline" for task in ("Img2Img", "Inpaint")]
    names = [name for name in names if name != type(pipeline).__name__]
    return getattr(diffusers, names[number % len(names)])


def pictures(pipeline, number):
    """Renders with a pipeline: the pictures by class, and the configurations by part."""
    configs = {name: plain(part.config) for name, part in pipeline.components.items()
               if hasattr(getattr(part, "config", None), "keys")}
    scheduler = pipeline.scheduler
    found = {type(pipeline).__name__: picture(pipeline)}
    other = other_class(pipeline, number)
    if other is not None:
        parts = {**pipeline.components, "scheduler": type(scheduler).from_config(scheduler.config)}
        if hasattr(pipeline.config, "requires_aesthetics_score"):
            parts["requires_aesthetics_score"] = pipeline.config.requires_aesthetics_score
        if not other.__name__.startswith(XL):
            parts["requires_safety_checker"] = False
        found[other.__name__] = picture(other(**parts))
    return found, configs


def plain(config):
    """The fields of a configuration as JSON has them, without those of the library itself."""
    fields = {field: value for field, value in config.items() if not field.startswith("_")}
    return json.loads(json.dumps(fields, default=str))


def differences(first, other):
    (own, configs), (found, found_configs) = first, other
    lines = [] if own.keys() == found.keys() else [f"classes {list(found)} instead of {list(own)}"]
    for name in own.keys() & found.keys():
        if not np.isfinite(found[name]).all() or not np.array_equal(own[name], found[name]):
            lines.append(f"{name}: another picture")
    for part, config in configs.items():
        other = found_configs.get(part, {})
        fields = {field for field in config.keys() | other.keys() if config.get(field) != other.get(field)}
        if fields - IGNORED:
            lines.append(f"configuration of {part}: {sorted(fields - IGNORED)}")
    return lines


# What only records how a part was saved.
IGNORED = {"dtype", "torch_dtype", "transformers_version"}


def open_folder(folder):
    return diffusers.DiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)


def aligned(pipeline):
    """Copies weights that are mapped from a file, as F32 is opened in F32, to memory of their own.

    In the file they lie at any multiple of 4 bytes, and torch adds in another order there: pictures differ by up to 1e-3.
    """
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.data = tensor.data.clone()
    return pipeline


def convert(program, *arguments):
    result = subprocess.run([program, "convert", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0 or result.stderr:
        raise RuntimeError(result.stderr)


def judge(program, name, number, maker, folder):
    """Makes the folder of a kind, and converts it. Returns the classes that rendered, and what differs."""
    source, file, back = folder / "source", folder / f"{name}.safetensors", folder / "back"
    pipeline = KINDS[name](maker)
    pipeline.save_pretrained(source)
    first = pictures(pipeline.to(torch.float32), number)
    if name in FOLDERS_ONLY:
        convert(program, source, "-o", back, "--to", "diffusers")
    else:
        convert(program, source, "-o", file)
        convert(program, file, "-o", back, "--to", "diffusers")
    found = {"classes": list(first[0]), "back": differences(first, pictures(open_folder(back), number))}
    if name in ALSO_CAST:
        cast = folder / "cast"
        convert(program, source, "-o", cast, "--to", "diffusers", "--dtype", "f32")
        found["cast"] = differences(first, pictures(aligned(open_folder(cast)), number))
    if name in ALSO_PLAIN:
        plain = folder / "plain"
        convert(program, file, "-o", plain, "--to", "diffusers", "--drop-metadata", "*")
        found["plain"] = differences((first[0], {}), pictures(open_folder(plain), number))
        # ComfyUI saves no autoencoder of the first frame, and encodes it with the other one, which was rounded to F16.
        without = folder / "without"
        convert(program, file, "-o", without, "--to", "diffusers", "--drop", "conditioner.embedders.3.*")
        own, other = first[0], pictures(open_folder(without), number)[0]
        found["without"] = [key for key in own if not np.allclose(own[key], other[key], atol=0.02)]
    return found


# A single file has no place for the depth estimator.
FOLDERS_ONLY = {"sd2-depth"}
ALSO_CAST = {"sd1", "sd2-depth", "sdxl"}
# Without the configurations that a single file records.
ALSO_PLAIN = {"svd"}


def main(program, kinds):
    result = {}
    with tempfile.TemporaryDirectory() as vocabulary:
        maker = Maker(pathlib.Path(vocabulary))
        for number, name in enumerate(KINDS):
            if kinds and name not in kinds:
                continue
            maker.single()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    result[name] = judge(program, name, number, maker, pathlib.Path(folder))
                except Exception as error:  # a folder that does not open is a result
                    result[name] = {"classes": [], "failed": [f"{error!r}"[:600]]}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
