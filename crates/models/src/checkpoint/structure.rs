//! Folders whose UNet has other numbers of blocks than the published models, such as some distilled ones.

use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::error::{Error, Result};

use super::translate::{FolderTensor, folder_tensors, translate};
use crate::family::Architecture;
use crate::layout::{self, Folder, Layout};

/// Returns the tensors of a folder in LDM names, by the structure that the keys of its UNet show. `None` for the folder of a
/// model without a UNet, or with networks of another kind.
///
/// Fails if a component has tensors that Stable Diffusion lacks.
pub(super) fn to_ldm(state_dict: &StateDict) -> Result<Option<StateDict>> {
    let tensors = folder_tensors(state_dict);
    if tensors.len() < state_dict.len() || !tensors.iter().any(|(folder, ..)| *folder == Folder::Unet) {
        return Ok(None);
    }
    let in_folder = |folder: Folder, name: &str| state_dict.get(&format!("{}/{name}", folder.name()));
    let dims = |name: &str| in_folder(Folder::Unet, name).map(|tensor| tensor.shape().dims().to_vec());
    let layout = Layout::of_structure(architecture(&tensors, &dims), &dims);
    if let Some((.., key, _)) = tensors.iter().find(|(folder, name, ..)| !layout.has_place(*folder, name)) {
        return Err(Error::unsupported("cannot be rendered: Stable Diffusion has no such tensor").in_tensor(*key));
    }
    Ok(Some(translate(&layout, &tensors)?.0))
}

/// Returns the architecture with the same text encoders and the same kind of conditioning.
fn architecture(tensors: &[FolderTensor<'_>], dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Architecture {
    let has = |folder: Folder| tensors.iter().any(|(found, ..)| *found == folder);
    if dims("add_embedding.linear_1.weight").is_some() {
        return if has(Folder::TextEncoder) { Architecture::SdxlBase } else { Architecture::SdxlRefiner };
    }
    let layers = layout::count(|layer| {
        let norms = ["text_model.", ""].map(|prefix| format!("{prefix}encoder.layers.{layer}.layer_norm1.weight"));
        tensors.iter().any(|(folder, name, ..)| *folder == Folder::TextEncoder && norms.iter().any(|norm| norm == name))
    });
    let attention = ["down_blocks.0", "down_blocks.1"].map(|path| format!("{path}.attentions.0"));
    let first = |name: &str| attention.iter().find_map(|path| dims(&format!("{path}.{name}")));
    let width = first("transformer_blocks.0.attn2.to_k.weight").and_then(|dims| dims.get(1).copied());
    let is_linear = || first("proj_in.weight").is_some_and(|dims| dims.len() == 2);
    match (width, layers) {
        (Some(768), _) | (_, 12) => Architecture::Sd1,
        (Some(1024), _) | (_, 23 | 24) => Architecture::Sd2,
        _ if is_linear() => Architecture::Sd2,
        _ => Architecture::Sd1,
    }
}
