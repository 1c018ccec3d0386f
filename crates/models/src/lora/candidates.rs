//! The names under which WebUI looks for the modules of LoRAs in a model.

use std::sync::LazyLock;

use regex::Regex;

/// A pattern of a name, and how to convert it.
type Rule = (Regex, Convert);

/// Returns the name from the groups of the pattern. The second argument tells whether the text encoder is OpenCLIP's.
type Convert = fn(&[&str], bool) -> Option<String>;

/// WebUI's conversions from the names of diffusers to those of the original models, in order.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rules: [(&str, Convert); 10] = [
        (r"^lora_unet_conv_in(.*)", |m, _| Some(format!("diffusion_model_input_blocks_0_0{}", m.first()?))),
        (r"^lora_unet_conv_out(.*)", |m, _| Some(format!("diffusion_model_out_2{}", m.first()?))),
        (r"^lora_unet_time_embedding_linear_(\d+)(.*)", |m, _| {
            Some(format!("diffusion_model_time_embed_{}{}", (2 * number(m, 0)?).checked_sub(2)?, m.get(1)?))
        }),
        (r"^lora_unet_down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", |m, _| {
            let block = 1 + number(m, 0)? * 3 + number(m, 2)?;
            Some(format!("diffusion_model_input_blocks_{block}_{}", inside(m.get(1)?, m.get(3)?)))
        }),
        (r"^lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", |m, _| {
            let block = if *m.first()? == "attentions" { 1 } else { 2 * number(m, 1)? };
            Some(format!("diffusion_model_middle_block_{block}_{}", converted(m.first()?, m.get(2)?)))
        }),
        (r"^lora_unet_up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", |m, _| {
            let block = number(m, 0)? * 3 + number(m, 2)?;
            Some(format!("diffusion_model_output_blocks_{block}_{}", inside(m.get(1)?, m.get(3)?)))
        }),
        (r"^lora_unet_down_blocks_(\d+)_downsamplers_0_conv", |m, _| {
            Some(format!("diffusion_model_input_blocks_{}_0_op", 3 + number(m, 0)? * 3))
        }),
        (r"^lora_unet_up_blocks_(\d+)_upsamplers_0_conv", |m, _| {
            let block = number(m, 0)?;
            let layer = if block > 0 { 2 } else { 1 };
            Some(format!("diffusion_model_output_blocks_{}_{layer}_conv", 2 + block * 3))
        }),
        (r"^lora_te_text_model_encoder_layers_(\d+)_(.+)", |m, is_openclip| {
            let layer = m.first()?;
            Some(match is_openclip {
                true => format!("model_transformer_resblocks_{layer}_{}", of_openclip(m.get(1)?)),
                false => format!("transformer_text_model_encoder_layers_{layer}_{}", m.get(1)?),
            })
        }),
        (r"^lora_te2_text_model_encoder_layers_(\d+)_(.+)", |m, _| {
            Some(format!("1_model_transformer_resblocks_{}_{}", m.first()?, of_openclip(m.get(1)?)))
        }),
    ];
    rules.into_iter().filter_map(|(pattern, convert)| Some((Regex::new(pattern).ok()?, convert))).collect()
});

/// Returns the names that WebUI looks for in the model, in order. `is_openclip` tells whether the text encoder is that of
/// SD v2.
pub(super) fn candidates(module: &str, is_openclip: bool) -> Vec<String> {
    let convert = |(pattern, convert): &Rule| {
        let groups = pattern.captures(module)?;
        let groups: Vec<&str> = groups.iter().skip(1).flatten().map(|group| group.as_str()).collect();
        convert(&groups, is_openclip)
    };
    let mut names = vec![RULES.iter().find_map(convert).unwrap_or_else(|| module.to_owned())];
    if module.contains("lora_unet") {
        names.push(module.replace("lora_unet", "diffusion_model"));
    } else if module.contains("lora_te1_text_model") {
        names.push(module.replace("lora_te1_text_model", "0_transformer_text_model"));
        names.push(module.replace("lora_te1_text_model", "transformer_text_model"));
    } else if module.contains("lora_te_text_model") {
        // Diffusers has the same name for the only text encoder of SD v1 and the first one of SDXL.
        names.push(module.replace("lora_te_text_model", "0_transformer_text_model"));
    }
    names
}

fn number(groups: &[&str], index: usize) -> Option<usize> {
    // Numbers of blocks are small; the bound is for hostile files.
    groups.get(index)?.parse().ok().filter(|number| *number < 1000)
}

/// Returns the name of a layer inside an input or output block.
fn inside(kind: &str, layer: &str) -> String {
    format!("{}_{}", if kind == "attentions" { 1 } else { 0 }, converted(kind, layer))
}

fn converted<'a>(kind: &str, layer: &'a str) -> &'a str {
    match (kind, layer) {
        ("resnets", "conv1") => "in_layers_2",
        ("resnets", "conv2") => "out_layers_3",
        ("resnets", "norm1") => "in_layers_0",
        ("resnets", "norm2") => "out_layers_0",
        ("resnets", "time_emb_proj") => "emb_layers_1",
        ("resnets", "conv_shortcut") => "skip_connection",
        _ => layer,
    }
}

/// Returns OpenCLIP's name of a layer.
fn of_openclip(layer: &str) -> String {
    if layer.contains("mlp_fc1") {
        layer.replace("mlp_fc1", "mlp_c_fc")
    } else if layer.contains("mlp_fc2") {
        layer.replace("mlp_fc2", "mlp_c_proj")
    } else {
        layer.replace("self_attn", "attn")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_names_like_webui() {
        for (name, expected) in [
            ("lora_unet_conv_in", "diffusion_model_input_blocks_0_0"),
            ("lora_unet_time_embedding_linear_2", "diffusion_model_time_embed_2"),
            ("lora_unet_down_blocks_1_resnets_0_conv1", "diffusion_model_input_blocks_4_0_in_layers_2"),
            ("lora_unet_mid_block_resnets_1_conv2", "diffusion_model_middle_block_2_out_layers_3"),
            ("lora_unet_up_blocks_3_attentions_2_proj_out", "diffusion_model_output_blocks_11_1_proj_out"),
            ("lora_unet_down_blocks_0_downsamplers_0_conv", "diffusion_model_input_blocks_3_0_op"),
            ("lora_unet_up_blocks_0_upsamplers_0_conv", "diffusion_model_output_blocks_2_1_conv"),
            ("lora_unet_up_blocks_1_upsamplers_0_conv", "diffusion_model_output_blocks_5_2_conv"),
            ("lora_te_text_model_encoder_layers_3_mlp_fc1", "transformer_text_model_encoder_layers_3_mlp_fc1"),
            ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", "1_model_transformer_resblocks_3_attn_q_proj"),
        ] {
            assert_eq!(candidates(name, false)[0], expected, "{name}");
        }
        let openclip = &candidates("lora_te_text_model_encoder_layers_3_mlp_fc1", true)[0];
        assert_eq!(openclip, "model_transformer_resblocks_3_mlp_c_fc");
        let sdxl = candidates("lora_unet_input_blocks_4_1_proj_in", false);
        assert_eq!(sdxl[1], "diffusion_model_input_blocks_4_1_proj_in");
    }
}
