//! Names of tensors in LoRAs.
//!
//! Kohya's trainer joins the parts of a module's name by underscores: `lora_unet_down_blocks_0_attentions_0_proj_in`.
//! Diffusers and PEFT keep the dots: `unet.down_blocks.0.attentions.0.proj_in`. All become kohya's names here.

use super::kind::{MAGNITUDE, is_of_change};

/// Networks in the names of diffusers and PEFT, with kohya's prefix.
const NETWORKS: [(&str, &str); 12] = [
    ("unet.", "lora_unet_"),
    ("text_encoder_2.", "lora_te2_"),
    ("text_encoder.", "lora_te_"),
    ("base_model.model.text_model.", "lora_te_text_model_"),
    ("base_model.model.encoder.layers.", "lora_te_text_model_encoder_layers_"),
    ("base_model.model.", "lora_unet_"),
    // ComfyUI keeps the names of the original code.
    ("diffusion_model.", "lora_unet_"),
    ("transformer.text_model.", "lora_te_text_model_"),
    // Diffusers calls the diffusion models of other families a transformer.
    ("transformer.", "lora_transformer_"),
    // The first versions of diffusers saved the layers of the UNet without a prefix.
    ("down_blocks.", "lora_unet_down_blocks_"),
    ("mid_block.", "lora_unet_mid_block_"),
    ("up_blocks.", "lora_unet_up_blocks_"),
];

/// Names of a change's tensors in diffusers and PEFT, and those of kohya's trainer.
const PARTS: [(&str, &str); 18] = [
    (".lora_A.default.weight", "lora_down.weight"),
    (".lora_B.default.weight", "lora_up.weight"),
    (".lora_A.weight", "lora_down.weight"),
    (".lora_B.weight", "lora_up.weight"),
    (".lora_linear_layer.down.weight", "lora_down.weight"),
    (".lora_linear_layer.up.weight", "lora_up.weight"),
    ("_lora.down.weight", "lora_down.weight"),
    ("_lora.up.weight", "lora_up.weight"),
    (".lora.down.weight", "lora_down.weight"),
    (".lora.up.weight", "lora_up.weight"),
    ("_lora.alpha", "alpha"),
    (".lora.alpha", "alpha"),
    (".lora_linear_layer.alpha", "alpha"),
    (".lora_B.bias", "lora_up.bias"),
    (".lora_magnitude_vector", MAGNITUDE),
    (".lora_magnitude_vector.weight", MAGNITUDE),
    (".lora_magnitude_vector.default", MAGNITUDE),
    (".lora_magnitude_vector.default.weight", MAGNITUDE),
];

/// Splits a key of a LoRA into the module's name in kohya's spelling, and the name of the tensor.
pub fn split_key(key: &str) -> (String, String) {
    let network = NETWORKS.iter().find_map(|(prefix, kohya)| Some((kohya, key.strip_prefix(prefix)?)));
    let (module, part) = match network {
        Some((kohya, rest)) => {
            let known = PARTS.iter().find_map(|(suffix, part)| Some((rest.strip_suffix(suffix)?, *part)));
            let (module, part) = known.or_else(|| rest.rsplit_once('.')).unwrap_or((rest, ""));
            // Attention processors of early versions of diffusers hold the layers of their attention.
            let module = module.replace(".processor.", ".").replace(".to_out.0", ".to_out_0").replace('.', "_");
            let module = match module.strip_suffix("to_out") {
                Some(before) => format!("{before}to_out_0"),
                None => module,
            };
            (format!("{kohya}{}", of_text_encoder(kohya, &module)), part)
        }
        None => {
            let (module, part) = key.split_once('.').unwrap_or((key, ""));
            (module.to_owned(), part)
        }
    };
    let part = match part {
        "lora_A.weight" => "lora_down.weight",
        "lora_B.weight" => "lora_up.weight",
        "lora.down.weight" => "lora_down.weight",
        "lora.up.weight" => "lora_up.weight",
        other => other,
    };
    (module, part.to_owned())
}

/// Splits a key as [`split_key`] does, also one of a network that this program does not know. `None` for tensors that belong to no
/// change.
pub(crate) fn split_any_key(key: &str) -> Option<(String, String)> {
    const OTHERS: [&str; 5] = ["alpha", "scale", "bias", "weight", "rescale"];
    let (module, part) = split_key(key);
    if is_of_change(&part)
        || OTHERS.contains(&part.as_str()) && (key.starts_with("lora_") || key.starts_with("lycoris_"))
    {
        return Some((module, part));
    }
    let joined = |module: &str| module.replace('.', "_");
    // Those of x-flux: `double_blocks.0.processor.qkv_lora1.down.weight`.
    let heads =
        [(".down.weight", "lora_down.weight"), (".up.weight", "lora_up.weight")].into_iter().find_map(|(end, part)| {
            let module =
                key.strip_suffix(end).filter(|module| module.ends_with("_lora1") || module.ends_with("_lora2"))?;
            Some((joined(module), part.to_owned()))
        });
    let known = PARTS.iter().find_map(|(suffix, part)| Some((joined(key.strip_suffix(suffix)?), (*part).to_owned())));
    let split = || {
        let parts = key.match_indices('.').filter_map(|(at, _)| key.split_at_checked(at));
        let mut parts = parts.filter_map(|(module, part)| Some((module, part.strip_prefix('.')?)));
        let is_part = |part: &str| is_of_change(part) || part == "alpha";
        let (module, part) = parts.find(|(_, part)| is_part(part))?;
        Some((joined(module), part.to_owned()))
    };
    heads.or(known).or_else(split)
}

/// Early versions of diffusers name the projections of a text encoder like those of a UNet.
fn of_text_encoder(network: &str, module: &str) -> String {
    if !network.starts_with("lora_te") {
        return module.to_owned();
    }
    let names = [("_to_q", "_q_proj"), ("_to_k", "_k_proj"), ("_to_v", "_v_proj"), ("_to_out_0", "_out_proj")];
    let renamed = names.iter().find_map(|(from, to)| Some(format!("{}{to}", module.strip_suffix(from)?)));
    renamed.unwrap_or_else(|| module.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_keys_of_any_network() {
        for (key, module, part) in [
            (
                "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
                "lora_unet_double_blocks_0_img_attn_qkv",
                "lora_up.weight",
            ),
            ("lora_unet_conv_in.weight", "lora_unet_conv_in", "weight"),
            (
                "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight",
                "lora_transformer_transformer_blocks_0_attn_to_out_0",
                "lora_down.weight",
            ),
            ("model.layers.0.self_attn.q_proj.lora_B.weight", "model_layers_0_self_attn_q_proj", "lora_up.weight"),
            ("blocks.0.attn.qkv.lokr_w1", "blocks_0_attn_qkv", "lokr_w1"),
            ("blocks.0.attn.qkv.alpha", "blocks_0_attn_qkv", "alpha"),
            (
                "double_blocks.0.processor.qkv_lora1.down.weight",
                "double_blocks_0_processor_qkv_lora1",
                "lora_down.weight",
            ),
        ] {
            assert_eq!(split_any_key(key), Some((module.to_owned(), part.to_owned())), "{key}");
        }
        for key in ["model.diffusion_model.out.2.weight", "bundle_emb.word.string_to_param.*", "alpha"] {
            assert_eq!(split_any_key(key), None, "{key}");
        }
    }

    #[test]
    fn reads_the_names_of_kohya_diffusers_and_peft() {
        let q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
        let down = "lora_down.weight";
        for (key, module, part) in [
            (format!("{q}.lora_down.weight"), q, down),
            (format!("{q}.lora_A.weight"), q, down),
            ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight".into(), q, down),
            (
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight".into(),
                q,
                down,
            ),
            (format!("{q}.alpha"), q, "alpha"),
            ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight".into(), q, down),
            ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight".into(), q, down),
            (
                "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_magnitude_vector"
                    .into(),
                q,
                MAGNITUDE,
            ),
            (
                "base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_A.weight".into(),
                "lora_te_text_model_encoder_layers_3_mlp_fc1",
                down,
            ),
            (
                "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight".into(),
                "lora_te_text_model_encoder_layers_3_self_attn_out_proj",
                "lora_up.weight",
            ),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight".into(),
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
                "lora_up.weight",
            ),
        ] {
            assert_eq!(split_key(&key), (module.to_owned(), part.to_owned()), "{key}");
        }
    }
}
