//! Files whose networks no package builds, by the keys of the code that reads them.

use super::identify;

/// The keys and dimensions of a file, and its name.
type Case = (&'static [(&'static str, &'static [u64])], &'static str);

const WEIGHT: &[u64] = &[4, 4];

const CASES: &[Case] = &[
    (
        &[
            ("image_proj.latents", &[1, 16, 1280]),
            ("image_proj.proj_in.weight", &[1280, 512]),
            ("ip_adapter.1.to_k_ip.weight", &[640, 2048]),
        ],
        "SDXL base InstantID adapter",
    ),
    (
        &[
            ("image_proj.proj.0.weight", &[1024, 512]),
            ("ip_adapter.0.to_q_lora.down.weight", &[128, 320]),
            ("ip_adapter.1.to_k_ip.weight", &[320, 768]),
        ],
        "SD v1 IP-Adapter, FaceID",
    ),
    (
        &[
            ("image_proj.latents", &[1, 16, 1280]),
            ("image_proj.proj_in.weight", &[1280, 1024]),
            ("ip_adapter.1.to_k_ip.weight", &[640, 2048]),
        ],
        "Kolors IP-Adapter, Plus",
    ),
    (&[("pulid_ca.0.norm1.weight", &[4]), ("pulid_encoder.latents", &[1, 32, 1024])], "Flux.1 PuLID"),
    (&[("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::0", WEIGHT)], "LayerDiffuse"),
    (&[("latent_conv_in.weight", &[64, 4, 1, 1]), ("down_blocks.0.resnets.0.norm1.weight", &[32])], "LayerDiffuse"),
    (
        &[
            ("conv_in_condition.weight", &[320, 9, 3, 3]),
            ("brushnet_down_blocks.0.weight", &[320, 320, 1, 1]),
            ("down_blocks.0.resnets.0.norm1.weight", &[320]),
            ("time_embedding.linear_1.weight", &[1280, 320]),
        ],
        "BrushNet",
    ),
    (&[("connector.perceiver_blocks.0.attn.in_proj_weight", WEIGHT)], "ELLA"),
    (&[("head", &[320, 5, 3, 3])], "inpainting head (Fooocus)"),
    (&[("ecd0.0.0.weight", WEIGHT), ("generator.style.1.weight", WEIGHT)], "GPEN face restorer"),
    (&[("ClassHead.0.conv1x1.weight", WEIGHT), ("BboxHead.0.conv1x1.weight", WEIGHT)], "RetinaFace object detector"),
    (&[("out_mask_conv.conv2d.weight", WEIGHT), ("encoder.0.conv2d.weight", WEIGHT)], "ParseNet segmentation model"),
    (
        &[("conv_in.weight", WEIGHT), ("stage1.rebnconvin.conv_s1.weight", WEIGHT), ("side1.weight", WEIGHT)],
        "IS-Net or RMBG segmentation model",
    ),
    (&[("stage1.rebnconvin.conv_s1.weight", WEIGHT), ("outconv.weight", WEIGHT)], "U²-Net segmentation model"),
    (
        &[("squeeze_module.0.conv_in.weight", WEIGHT), ("bb.patch_embed.proj.weight", WEIGHT)],
        "BiRefNet or RMBG 2 segmentation model",
    ),
    (
        &[
            ("mask_decoder.hf_token.weight", WEIGHT),
            ("prompt_encoder.no_mask_embed.weight", WEIGHT),
            ("image_encoder.blocks.0.attn.qkv.weight", WEIGHT),
        ],
        "SAM-HQ Segment Anything model",
    ),
    (
        &[
            ("transformer.encoder.layers.0.self_attn.sampling_offsets.weight", WEIGHT),
            ("bert.encoder.layer.0.attention.self.query.weight", WEIGHT),
        ],
        "Grounding DINO object detector",
    ),
    (&[("depth_model.encoder_modules.encoder.conv1.weight", WEIGHT)], "LeReS depth estimator"),
    (
        &[("core.core.scratch.refinenet1.out_conv.weight", WEIGHT), ("attractors.0._net.0.weight", WEIGHT)],
        "ZoeDepth depth estimator",
    ),
    (&[("block1_1.conv1.weight", WEIGHT), ("conv_reduces.0.conv.weight", WEIGHT)], "PiDiNet ControlNet preprocessor"),
    (
        &[
            ("cls_token", &[1, 1, 768]),
            ("blocks.0.attn.qkv.weight", WEIGHT),
            ("patch_embed.proj.weight", WEIGHT),
            ("head.weight", &[10_861, 768]),
        ],
        "WD tagger image tagger",
    ),
    (&[("n_Conv_0.weight", WEIGHT), ("n_Conv_1.weight", WEIGHT)], "DeepDanbooru image tagger"),
    (&[("0.step", &[]), ("0.exp_avg", WEIGHT), ("0.exp_avg_sq", WEIGHT)], "optimizer state of a training"),
    (&[("latent_tensor", &[1, 4, 64, 64]), ("latent_format_version_0", &[0])], "latent image"),
    (
        &[("initial_conv.weight", &[4, 128, 3, 3, 3]), ("post_upsample_res_blocks.0.conv1.weight", WEIGHT)],
        "LTX-Video latent upscaler",
    ),
    (
        &[
            ("decoder.conv_in.weight", &[512, 16, 3, 3, 3]),
            ("encoder.down_blocks.0.resnets.0.conv1.weight", &[128, 128, 3, 3, 3]),
        ],
        "SeedVR2 VAE",
    ),
    (
        &[
            ("head.modulation", &[1, 2, 1536]),
            ("blocks.0.cross_attn.q.weight", WEIGHT),
            ("audio_proj.audio_proj_glob_1.layer.bias", &[4]),
        ],
        "Wan HuMo diffusion model",
    ),
    (&[("controlnet_blocks.0.y_rms.weight", &[3072])], "Qwen-Image (or Edit) ControlNet"),
    (&[("controlnet_patch_embedding.weight", WEIGHT), ("controlnet_blocks.0.ffn.0.weight", WEIGHT)], "Wan ControlNet"),
    (&[("transformer.ref_image_refiner.0.attn.to_q.lora_A.weight", WEIGHT)], "OmniGen 2 LoRA (PEFT)"),
    (&[("clip_l", &[2, 768]), ("t5", &[2, 4096])], "Flux.1 textual inversion"),
    (&[("clip_g", &[2, 1280]), ("clip_l", &[2, 768]), ("t5xxl", &[2, 4096])], "SD v3 textual inversion"),
    (
        &[
            ("down_blocks.0.temporal_attentions.0.norm.weight", &[320]),
            ("up_blocks.2.temporal_attentions.2.norm.weight", &[320]),
        ],
        "SDXL base AnimateDiff motion module",
    ),
    (
        &[
            ("input_blocks.0.0.weight", &[320, 4, 3, 3]),
            ("input_blocks.1.0.temopral_conv.conv1.0.weight", &[320]),
            ("middle_block.0.in_layers.0.weight", &[1280]),
            ("time_embed.0.weight", &[1280, 320]),
        ],
        "ModelScope text to video diffusion model",
    ),
    (
        &[
            ("model.diffusion_model.input_blocks.0.0.weight", &[320, 8, 3, 3]),
            ("model.diffusion_model.input_blocks.1.0.temopral_conv.conv1.0.weight", &[320]),
            ("model.diffusion_model.middle_block.0.in_layers.0.weight", &[1280]),
            ("model.diffusion_model.init_attn.0.norm.weight", &[320]),
            ("first_stage_model.encoder.conv_in.weight", &[128, 3, 3, 3]),
            ("embedder.model.visual.proj", &[1280, 1024]),
        ],
        "VideoCrafter or DynamiCrafter checkpoint, with a VAE",
    ),
    (
        &[
            ("model.diffusion_model.input_blocks.0.0.weight", &[320, 4, 3, 3]),
            ("model.diffusion_model.camera_embed.0.weight", &[1280, 16]),
            ("model.diffusion_model.middle_block.0.in_layers.0.weight", &[1280]),
            ("first_stage_model.encoder.conv_in.weight", &[128, 3, 3, 3]),
        ],
        "Stable Diffusion checkpoint (MVDream)",
    ),
];

#[test]
fn names_files_of_other_programs() {
    let mut wrong = Vec::new();
    for (tensors, expected) in CASES {
        let tensors: Vec<_> = tensors.iter().map(|(key, dims)| ((*key).to_owned(), dims.to_vec())).collect();
        let identity = identify(&tensors, "");
        if identity.to_text() != *expected || !identity.also.is_empty() {
            wrong.push(format!("{} {:?} instead of {expected}", identity.to_text(), identity.also));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}
