//! What the metadata of a LoRA claims, and where its tensors differ.

use trinart_ckpt_formats::Metadata;

use super::scale::LoraScale;
use crate::claimed_family::ClaimedFamily;
use crate::file_kind::Model;

/// The fields of kohya's trainer and of the metadata standard that name the model that a LoRA was trained on.
const BASE: [&str; 3] = ["ss_base_model_version", "modelspec.architecture", "ss_sd_model_name"];

/// Returns the text of a field. `None` without it, and for what the trainer writes for no value.
fn field(metadata: &Metadata, name: &str) -> Option<String> {
    let text = metadata.get(name)?.to_text();
    let text = text.trim();
    (!text.is_empty() && text != "None").then(|| text.to_owned())
}

/// Returns the model that the metadata names, in its own words.
pub(super) fn base_model(metadata: &Metadata) -> Option<String> {
    let found: Vec<String> = BASE.iter().filter_map(|name| field(metadata, name)).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Returns the claims of the metadata that the tensors contradict, in words.
pub(super) fn contradictions(metadata: &Metadata, model: Option<Model>, scales: &[LoraScale]) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["ss_base_model_version", "modelspec.architecture"] {
        let Some((claim, model)) = field(metadata, name).zip(model) else { continue };
        if ClaimedFamily::of_name(&claim).is_some_and(|family| !family.can_be(model)) {
            found.push(format!("{name} is {claim}, and the layers are those of {}", model.text()));
        }
    }
    // These arguments give modules ranks of their own.
    let arguments = field(metadata, "ss_network_args").unwrap_or_default();
    if ["block_dims", "block_alphas", "preset"].iter().any(|word| arguments.contains(word)) {
        return found;
    }
    let number = |name: &str| field(metadata, name)?.parse::<f64>().ok();
    let ranks: Vec<f64> = scales.iter().filter_map(|scale| Some(scale.rank? as f64)).collect();
    let alphas: Vec<f64> = scales.iter().filter_map(|scale| scale.alpha).collect();
    for (name, what, values) in [("ss_network_dim", "rank", ranks), ("ss_network_alpha", "alpha", alphas)] {
        let Some(claim) = number(name) else { continue };
        // Alphas are rounded to the dtype of the file.
        let is_close = |value: &f64| (value - claim).abs() <= 0.01 * claim.abs();
        if !values.is_empty() && !values.iter().any(is_close) {
            found.push(format!("{name} is {claim}, and no module has this {what}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::metadata::PyValue;

    fn metadata(fields: &[(&str, &str)]) -> Metadata {
        fields.iter().map(|(name, value)| ((*name).to_owned(), PyValue::Str((*value).to_owned()))).collect()
    }

    fn scale(rank: u64, alpha: f64) -> LoraScale {
        LoraScale { rank: Some(rank), alpha: Some(alpha), scale: None, is_convolution: false, modules: 1 }
    }

    #[test]
    fn finds_claims_that_the_tensors_contradict() {
        let claims = metadata(&[("ss_network_dim", "16"), ("ss_network_alpha", "8.0")]);
        assert!(contradictions(&claims, None, &[scale(16, 8.0), scale(4, 1.0)]).is_empty());
        let found = contradictions(&claims, None, &[scale(32, 1.0)]);
        let expected = [
            "ss_network_dim is 16, and no module has this rank",
            "ss_network_alpha is 8, and no module has this alpha",
        ];
        assert_eq!(found, expected);
        let base = metadata(&[("ss_base_model_version", "sdxl_base_v1-0")]);
        assert_eq!(contradictions(&base, Some(Model::Sd1), &[]).len(), 1);
        assert_eq!(contradictions(&base, Some(Model::Sd1Or2), &[]).len(), 1);
        assert!(contradictions(&base, Some(Model::SdxlBase), &[]).is_empty());
        assert!(
            contradictions(&metadata(&[("ss_base_model_version", "sd_v2_v")]), Some(Model::Sd1Or2), &[]).is_empty()
        );
    }

    #[test]
    fn what_is_no_claim_contradicts_nothing() {
        for fields in [
            &[("ss_network_dim", "Dynamic"), ("ss_network_alpha", "None")][..],
            &[("ss_network_dim", "64"), ("ss_network_args", r#"{"block_dims": "4,4"}"#)],
            &[("ss_network_alpha", "13.37")],
            &[("modelspec.architecture", "pony/lora")],
        ] {
            assert!(contradictions(&metadata(fields), Some(Model::Sd1), &[scale(4, 13.375)]).is_empty(), "{fields:?}");
        }
    }
}
