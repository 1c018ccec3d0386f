//! Names of real networks (`fixtures/kinds/`), and of files whose trainers are not among them.

mod lycoris;
mod others;

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::GzDecoder;

use super::view::View;
use super::{FileKind, Identity, Model};

/// A network of `fixtures/kinds/networks.txt.gz`.
struct Network {
    name: String,
    kind: String,
    model: String,
    tensors: Vec<(String, Vec<u64>)>,
}

fn networks() -> Vec<Network> {
    let packed = include_bytes!("../../../../fixtures/kinds/networks.txt.gz");
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    parsed(&text)
}

/// Parses a list of networks: a line with name, kind and model, and a line for each tensor.
fn parsed(text: &str) -> Vec<Network> {
    let mut networks: Vec<Network> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# ") {
            let [name, kind, model] = head.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
            networks.push(Network { name, kind, model, tensors: Vec::new() });
        } else {
            let (key, dims) = line.rsplit_once(' ').unwrap();
            let dims = dims.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()).collect();
            networks.last_mut().unwrap().tensors.push((key.to_owned(), dims));
        }
    }
    networks
}

fn identify(tensors: &[(String, Vec<u64>)], prefix: &str) -> Identity {
    let prefixed: Vec<(String, &[u64])> =
        tensors.iter().map(|(key, dims)| (format!("{prefix}{key}"), dims.as_slice())).collect();
    Identity::of_view(&View::new(prefixed.iter().map(|(key, dims)| (key.as_str(), *dims)).collect()))
}

fn words(identity: &Identity) -> (String, String, usize) {
    let model = identity.model.map_or("-", Model::name);
    (identity.kind.name().to_owned(), model.to_owned(), identity.also.len())
}

/// Asserts the name of each network under the prefixes that `prefixes` returns for its kind.
#[track_caller]
fn assert_names(prefixes: impl Fn(&Network) -> Vec<&'static str>) {
    let networks = networks();
    assert!(networks.len() > 120, "{}", networks.len());
    let mut wrong = Vec::new();
    for network in &networks {
        for prefix in prefixes(network) {
            let found = words(&identify(&network.tensors, prefix));
            if found != (network.kind.clone(), network.model.clone(), 0) {
                wrong
                    .push(format!("{prefix}{}: {found:?} instead of {} {}", network.name, network.kind, network.model));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_real_networks() {
    assert_names(|_| vec![""]);
}

#[test]
fn names_wrapped_networks() {
    assert_names(|network| match network.kind.as_str() {
        "unet" | "diffusion-model" => vec!["module.", "model.diffusion_model.", "module.model.", "_orig_mod."],
        "vae" | "vae-other" => vec!["module.", "first_stage_model.", "vae."],
        _ => vec!["module."],
    });
}

#[test]
fn names_checkpoints_by_their_parts() {
    let networks = networks();
    let of = |name: &str, prefix: &str| {
        let network = networks.iter().find(|network| network.name == name).unwrap();
        network.tensors.iter().map(|(key, dims)| (format!("{prefix}{key}"), dims.clone())).collect::<Vec<_>>()
    };
    let flux = [
        of("Flux dev", "model.diffusion_model."),
        of("VAE Flux", "vae."),
        of("CLIP-L", "text_encoders.clip_l.transformer."),
        of("T5 encoder", "text_encoders.t5xxl.transformer."),
    ];
    let identity = identify(&flux.concat(), "");
    assert_eq!(
        identity.to_text(),
        "Flux.1 dev (or Kontext, Krea) checkpoint, with a VAE, CLIP ViT-L text encoder, T5 text encoder, XXL, v1.1"
    );
    let sd = [of("SD v1", "unet."), of("VAE", "vae."), of("CLIP-L", "text_encoder.")];
    assert_eq!(identify(&sd.concat(), "").to_text(), "Stable Diffusion checkpoint (SD v1)");
    let parts = [of("VAE", "first_stage_model."), of("CLIP-L", "cond_stage_model.transformer.")];
    let folder = identify(&parts.concat(), "").in_folder_of("FluxPipeline");
    assert!(folder.to_text().starts_with("parts of a checkpoint, of a folder of FluxPipeline, VAE"), "{folder:?}");
    assert_eq!(identify(&parts.concat(), "").to_text(), "parts of a checkpoint, VAE, CLIP ViT-L text encoder");
}

#[test]
fn a_file_of_two_kinds_is_named_as_a_contradiction() {
    let networks = networks();
    let of = |name: &str| networks.iter().find(|network| network.name == name).unwrap().tensors.clone();
    for (a, b, also) in [
        ("SD v1", "SwinIR", FileKind::Upscaler),
        ("SwinIR", "CLIP-L", FileKind::ClipL),
        ("SD v1", "Flux dev", FileKind::DiffusionModel),
    ] {
        let identity = identify(&[of(a), of(b)].concat(), "");
        assert_eq!(identity.also, [also], "{a} {b} {identity:?}");
    }
    let lora = [("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight".to_owned(), vec![4, 320])];
    let identity = identify(&[of("SD v1"), lora.to_vec()].concat(), "");
    assert_eq!((identity.kind, identity.also.as_slice()), (FileKind::LoraKohya, &[FileKind::Unet][..]));
    let prefixed: Vec<_> =
        of("SD v1").into_iter().map(|(key, dims)| (format!("model.diffusion_model.{key}"), dims)).collect();
    let identity = identify(&[prefixed, lora.to_vec()].concat(), "");
    assert_eq!((identity.kind, identity.also.as_slice()), (FileKind::Unet, &[FileKind::LoraKohya][..]));
}

/// Keys with one shape for all, the text of the name.
const NAMES: &[(&[&str], &[u64], &str)] = &[
    (
        &["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"],
        &[4, 768],
        "SD v1 LoRA (kohya)",
    ),
    (
        &["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"],
        &[4, 1024],
        "SD v2 LoRA (kohya)",
    ),
    (
        &["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"],
        &[4, 2048],
        "SDXL base LoRA (kohya)",
    ),
    (&["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"], &[4, 1280], "SDXL base LoRA (kohya)"),
    (&["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_down.weight"], &[4, 768], "SD v1 LoRA (kohya)"),
    (&["lora_te_text_model_encoder_layers_22_mlp_fc1.lora_down.weight"], &[4, 1024], "SD v2 LoRA (kohya)"),
    (
        &[
            "lora_unet_double_blocks_18_img_attn_proj.lora_down.weight",
            "lora_unet_single_blocks_37_linear1.lora_down.weight",
        ],
        &[16, 3072],
        "Flux.1 LoRA (kohya)",
    ),
    (
        &[
            "lora_unet_double_blocks_19_img_attn_proj.lora_down.weight",
            "lora_unet_single_blocks_39_linear1.lora_down.weight",
        ],
        &[16, 3072],
        "Hunyuan Video LoRA (kohya)",
    ),
    (
        &[
            "lora_unet_double_blocks_7_img_attn_proj.lora_down.weight",
            "lora_unet_single_blocks_47_linear1.lora_down.weight",
        ],
        &[16, 6144],
        "Flux.2 LoRA (kohya)",
    ),
    (&["lora_unet_joint_blocks_3_x_block_attn_qkv.lora_down.weight"], &[4, 1536], "SD v3 LoRA (kohya)"),
    (
        &["lora_prior_unet_down_blocks_0_1_attention_attn_to_q.lora_down.weight"],
        &[4, 2048],
        "Stable Cascade stage C LoRA (kohya)",
    ),
    (&["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], &[4, 3072], "Flux.1 LoRA (PEFT)"),
    (
        &["transformer.transformer_blocks.59.attn.add_k_proj.lora_A.weight"],
        &[4, 3072],
        "Qwen-Image (or Edit) LoRA (PEFT)",
    ),
    (
        &["diffusion_model.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight"],
        &[4, 3072],
        "Qwen-Image (or Edit) LoRA (PEFT)",
    ),
    (&["transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight"], &[4, 1536], "SD v3 LoRA (PEFT)"),
    (&["diffusion_model.blocks.0.cross_attn.k.lora_down.weight"], &[4, 5120], "Wan LoRA (kohya)"),
    (&["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], &[4, 5120], "Wan LoRA (PEFT)"),
    (
        &[
            "diffusion_model.layers.29.attention.to_q.lora_A.weight",
            "diffusion_model.layers.0.attention.to_q.lora_A.weight",
        ],
        &[4, 3840],
        "Z-Image LoRA (PEFT)",
    ),
    (&["diffusion_model.double_stream_blocks.0.block.attn1.to_q.lora_A.weight"], &[4, 2560], "HiDream-I1 LoRA (PEFT)"),
    (&["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"], &[4, 2048], "LTX-Video LoRA (PEFT)"),
    (
        &["unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight"],
        &[4, 640],
        "SDXL base LoRA (PEFT)",
    ),
    (
        &["base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"],
        &[4, 768],
        "SD v1 LoRA (PEFT)",
    ),
    (
        &["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight"],
        &[4, 768],
        "SD v1 LoRA (old diffusers)",
    ),
    (&["double_blocks.0.processor.qkv_lora1.down.weight"], &[16, 3072], "Flux.1 LoRA (x-flux)"),
    (&["lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a"], &[4, 4], "SD v1 or v2 LoHa (LyCORIS)"),
    (&["lycoris_transformer_blocks_0_attn_to_q.lokr_w1"], &[4, 4], "LoKr (LyCORIS)"),
    (&["lora_unet_mid_block_attentions_0_proj_in.oft_blocks"], &[4, 4, 4], "SD v1 or v2 OFT (LyCORIS)"),
    (
        &["lora_unet_mid_block_attentions_0_proj_in.on_input", "lora_unet_mid_block_attentions_0_proj_in.weight"],
        &[4],
        "SD v1 or v2 IA3 (LyCORIS)",
    ),
    (
        &[
            "lora_unet_double_blocks_0_img_attn_proj.dora_scale",
            "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
        ],
        &[4, 4],
        "Flux.1 DoRA",
    ),
    (&["lora_unet_mid_block_attentions_0_proj_in.diff"], &[4, 4], "SD v1 or v2 full difference (LyCORIS)"),
    (&["lora_controlnet", "input_hint_block.0.weight", "label_emb.0.0.up"], &[3], "SDXL base Control-LoRA"),
    (
        &["lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"],
        &[4, 4],
        "SDXL base ControlNet-LLLite",
    ),
    (
        &[
            "control_model.input_hint_block.0.weight",
            "control_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        ],
        &[4, 768],
        "SD v1 ControlNet",
    ),
    (
        &[
            "control_model.input_hint_block.0.weight",
            "control_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        ],
        &[4, 1024],
        "SD v2 ControlNet",
    ),
    (&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], &[4, 768], "SD v1 IP-Adapter"),
    (&["image_proj.latents", "ip_adapter.1.to_k_ip.weight"], &[4, 2048], "SDXL base IP-Adapter, Plus"),
    (&["redux_up.weight", "redux_down.weight"], &[4, 4], "Flux.1 Redux style model"),
    (&["string_to_param.*"], &[2, 768], "SD v1 textual inversion"),
    (&["emb_params"], &[2, 1024], "SD v2 textual inversion"),
    (&["clip_g", "clip_l"], &[2, 1280], "SDXL base textual inversion"),
    (&["<cat>"], &[768], "SD v1 textual inversion"),
    (&["768.0.linear.0.weight", "768.1.linear.0.weight"], &[4, 4], "SD v1 hypernetwork"),
    (
        &["layers.0.weight", "layers.2.weight", "layers.4.weight", "layers.6.weight", "layers.7.weight"],
        &[4, 4],
        "aesthetic predictor",
    ),
    (
        &["taesd_decoder.1.weight", "taesd_decoder.3.conv.0.weight"],
        &[64, 16, 3, 3],
        "tiny autoencoder (TAESD), for Flux.1, SD v3, Wan or Qwen-Image (16 latent channels), decoder only",
    ),
    (
        &["1.weight", "1.bias", "3.conv.0.weight", "3.conv.0.bias"],
        &[64, 4, 3, 3],
        "tiny autoencoder (TAESD), for SD or SDXL (4 latent channels), decoder only",
    ),
    (
        &["0.weight", "1.conv.0.weight", "14.weight"],
        &[4, 64, 3, 3],
        "tiny autoencoder (TAESD), for SD or SDXL (4 latent channels), encoder only",
    ),
    (&["conv1.weight", "conv1.bias", "conv8.weight", "conv8.bias"], &[8], "approximate VAE decoder for previews"),
    (
        &["decoder.conv_in.weight", "decoder.conv_out.weight", "decoder.norm_out.weight"],
        &[512, 4, 3, 3],
        "VAE, decoder only",
    ),
    (&["decoder.conv_in.weight", "decoder.conv_out.weight", "encoder.conv_in.weight"], &[512, 8, 3, 3], "VAE"),
    (
        &["decoder.middle.0.residual.0.gamma", "encoder.downsamples.0.residual.0.gamma"],
        &[3],
        "Wan 2.1 or Qwen-Image VAE",
    ),
    (&["vquantizer.codebook.weight"], &[8192, 4], "Stable Cascade VAE"),
    (&["model.1.sub.0.RDB1.conv1.0.weight", "model.0.weight"], &[3], "ESRGAN upscaler"),
    (&["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight"], &[3], "ESRGAN or Real-ESRGAN upscaler"),
    (&["position_emb", "idx_pred_layer.1.weight", "quantize.embedding.weight"], &[3, 3], "CodeFormer face restorer"),
    (
        &[
            "double_blocks.0.img_attn.norm.key_norm.scale",
            "single_blocks.0.linear1.weight",
            "guidance_in.in_layer.weight",
        ],
        &[3, 3],
        "Flux.1 dev (or Kontext, Krea) diffusion model",
    ),
    (
        &["double_blocks.0.img_attn.norm.key_norm.scale", "distilled_guidance_layer.norms.0.scale"],
        &[3],
        "Chroma diffusion model",
    ),
    (
        &["double_blocks.0.img_attn.norm.key_norm.scale", "double_stream_modulation_img.lin.weight"],
        &[3],
        "Flux.2 klein diffusion model",
    ),
    (
        &["joint_blocks.0.context_block.attn.qkv.weight", "joint_blocks.37.x_block.mlp.fc1.weight"],
        &[3],
        "SD v3.5 large diffusion model",
    ),
    (
        &["layers.0.adaLN_modulation.0.weight", "noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight"],
        &[3],
        "Z-Image diffusion model",
    ),
    (
        &["layers.0.adaLN_modulation.1.weight", "noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight"],
        &[3],
        "Lumina 2 diffusion model",
    ),
    (
        &["head.modulation", "blocks.0.cross_attn.q.weight", "patch_embedding.weight"],
        &[5120, 16, 1, 2, 2],
        "Wan text to video diffusion model",
    ),
    (
        &["net.blocks.0.mlp.layer1.weight", "net.blocks.0.self_attn.q_proj.weight"],
        &[3, 3],
        "Cosmos Predict 2 diffusion model",
    ),
    (&["patchify_proj.weight", "adaln_single.emb.timestep_embedder.linear_1.bias"], &[3], "LTX-Video diffusion model"),
    (
        &["txt_in.individual_token_refiner.blocks.0.norm1.weight", "img_in.proj.weight"],
        &[3, 16, 1, 2, 2],
        "Hunyuan Video diffusion model",
    ),
    (
        &["clip_txt_mapper.weight", "clip_img_mapper.weight", "clf.1.weight"],
        &[2048, 3],
        "Stable Cascade stage C diffusion model",
    ),
    (&["blocks.0.attn.qkv_x.weight", "t5_yproj.weight"], &[3], "Mochi diffusion model"),
    (&["double_layers.0.attn.w1q.weight", "cond_seq_linear.weight"], &[3, 3], "AuraFlow diffusion model"),
    (&["mlp_t5.0.weight", "pooler.k_proj.weight"], &[3, 3], "Hunyuan-DiT diffusion model"),
    (
        &["single_transformer_blocks.0.qkv_proj.qweight", "transformer_blocks.0.norm1_context.linear.qweight"],
        &[3, 3],
        "Flux.1 diffusion model",
    ),
    (&["weight", "bias"], &[3], "unknown"),
];

#[test]
fn names_files_by_their_keys() {
    let mut wrong = Vec::new();
    for &(keys, dims, expected) in NAMES {
        let tensors: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), dims.to_vec())).collect();
        let found = identify(&tensors, "").to_text();
        if found != expected {
            wrong.push(format!("{keys:?}: {found} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_name_is_a_distinct_word() {
    let is_word = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
    };
    for names in [
        FileKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        Model::ALL.iter().map(|model| model.name()).collect(),
    ] {
        assert!(names.iter().all(|name| is_word(name)), "{names:?}");
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
}
