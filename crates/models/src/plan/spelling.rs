//! The names that files give the tensors of a component.

use crate::detection::{Detection, detect_by};
use crate::family::Architecture;
use crate::layout::{Folder, IMAGE_ENCODER_PREFIX, Layout, Mapped, Transform};
use trinart_ckpt_formats::state_dict::StateDict;

/// The parts of a prefix that trainers and tools put before all keys of a file.
const WRAPPERS: &[&str] = &["module.", "model.", "state_dict.", "_orig_mod.", "net.", "network."];

/// The most wrappers around each other.
const MOST_WRAPPERS: usize = 4;

/// The prefixes of UNets: of checkpoints, of parts of them, and of diffusers in one file.
const UNET: &[&str] = &["model.diffusion_model.", "diffusion_model.", "unet.", ""];

/// The prefixes of CLIP ViT-L: of checkpoints, of diffusers in one file, and of ComfyUI.
const CLIP_L: &[&str] = &[
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_l.",
    "clip_l.transformer.",
    "clip_l.",
    "text_encoder.",
    "transformer.",
    "",
];

/// The prefixes of OpenCLIP ViT-H.
const CLIP_H: &[&str] = &[
    "cond_stage_model.model.",
    "conditioner.embedders.0.model.",
    "text_encoders.clip_h.transformer.",
    "text_encoders.clip_h.",
    "clip_h.transformer.",
    "clip_h.",
    "text_encoder.",
    "transformer.",
    "",
];

/// The prefixes of OpenCLIP ViT-bigG: in SDXL base, in the refiner, in diffusers names in one file, and in ComfyUI.
const CLIP_G: &[&str] = &[
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.clip_g.",
    "clip_g.transformer.",
    "clip_g.",
    "text_encoder_2.",
    "text_encoder.",
    "transformer.",
    "",
];

/// The prefixes of the VAE of a video model. That of Stable Diffusion is found by its own names.
const VIDEO_VAE: &[&str] = &["first_stage_model.", "vae.", ""];

/// The prefixes of the image encoder of a video model: in a checkpoint, in diffusers names in one file, and without.
const IMAGE_ENCODER: &[&str] = &[IMAGE_ENCODER_PREFIX, "image_encoder.", ""];

/// The prefixes of a ControlNet: in the original code, and without.
const CONTROL_NET: &[&str] = &["control_model.", ""];

/// The key of the first convolution of a UNet, in both layouts, and a key that only UNets and their relatives have.
const UNET_IN: [(&str, &str); 2] =
    [("input_blocks.0.0.weight", "time_embed.0.weight"), ("conv_in.weight", "time_embedding.linear_1.weight")];

/// The key of the first convolution of a ControlNet's own, in both layouts.
const CONTROL_NET_IN: [&str; 2] = ["zero_convs.0.0.weight", "controlnet_down_blocks.0.weight"];

/// The prefixes that files give the keys of a component.
fn prefixes(folder: Folder, architecture: Architecture) -> &'static [&'static str] {
    match (folder, architecture) {
        (Folder::Vae, Architecture::StableVideo) => VIDEO_VAE,
        (Folder::Unet | Folder::Vae, _) => UNET,
        (Folder::ImageEncoder, _) => IMAGE_ENCODER,
        (Folder::TextEncoder, Architecture::Sd2) => CLIP_H,
        (Folder::TextEncoder, _) => CLIP_L,
        (Folder::TextEncoder2, _) => CLIP_G,
        (Folder::ControlNet, _) => CONTROL_NET,
    }
}

/// Returns the prefix of the UNet of a file, in whatever names. `None` without a UNet.
pub(in crate::plan) fn unet_prefix(state_dict: &StateDict) -> Option<&str> {
    let is_prefix = |prefix: &str| unwrapped(prefix).any(|rest| UNET.contains(&rest));
    state_dict.keys().find_map(|key| {
        UNET_IN.iter().find_map(|(first, beside)| {
            let prefix = key.strip_suffix(first)?;
            (is_prefix(prefix) && state_dict.contains(&format!("{prefix}{beside}"))).then_some(prefix)
        })
    })
}

/// Returns what precedes the keys of the UNet of a file, even if no program puts it there. `None` without a UNet.
pub(in crate::plan) fn unet_anywhere(state_dict: &StateDict) -> Option<&str> {
    state_dict.keys().find_map(|key| {
        UNET_IN.iter().find_map(|(first, beside)| {
            let prefix = key.strip_suffix(first)?;
            state_dict.contains(&format!("{prefix}{beside}")).then_some(prefix)
        })
    })
}

/// Returns the prefix of the ControlNet of a file, in whatever names. `None` without one.
pub(in crate::plan) fn control_net_prefix(state_dict: &StateDict) -> Option<&str> {
    let is_prefix = |prefix: &str| unwrapped(prefix).any(|rest| CONTROL_NET.contains(&rest));
    let before = |key| CONTROL_NET_IN.iter().find_map(|first| str::strip_suffix(key, first));
    state_dict.keys().find_map(before).filter(|prefix| is_prefix(prefix))
}

/// Returns whether a prefix of all keys is one that training puts there and no network has of its own.
pub(in crate::plan) fn is_of_training(prefix: &str) -> bool {
    let parts = ["module.", "_orig_mod."];
    let rest = std::iter::successors(Some(prefix), |rest| parts.iter().find_map(|part| rest.strip_prefix(part))).last();
    !prefix.is_empty() && rest == Some("")
}

/// Detects the architecture of the UNet whose keys have this prefix.
pub(in crate::plan) fn detect_at(state_dict: &StateDict, prefix: &str) -> Detection {
    detect_by(&|key| state_dict.get(&format!("{prefix}{key}")).map(|tensor| tensor.shape().dims().to_vec()))
}

/// Returns the part of the prefix of a UNet that precedes all keys of its file.
pub(in crate::plan) fn wrapper_of_unet(prefix: &str) -> &str {
    let rest = unwrapped(prefix).find(|rest| UNET.contains(rest));
    rest.and_then(|rest| prefix.strip_suffix(rest)).unwrap_or_default()
}

/// Returns the wrappers that a prefix begins with.
pub(in crate::plan) fn wrapper(prefix: &str) -> &str {
    unwrapped(prefix).last().and_then(|rest| prefix.strip_suffix(rest)).unwrap_or_default()
}

/// Returns whether a prefix names no component.
pub(in crate::plan) fn is_bare(prefix: &str) -> bool {
    unwrapped(prefix).any(|rest| rest.is_empty() || rest == "transformer.")
}

/// Yields a key without wrappers: whole, without the first, without the first two.
pub(in crate::plan) fn unwrapped(key: &str) -> impl Iterator<Item = &str> {
    fn without_first<'k>(key: &&'k str) -> Option<&'k str> {
        WRAPPERS.iter().find_map(|wrapper| key.strip_prefix(wrapper))
    }
    std::iter::successors(Some(key), without_first).take(MOST_WRAPPERS + 1)
}

/// Splits a key into the prefix of a component and the rest, which the component has as a key.
pub(in crate::plan) fn split<'k, 'l>(
    layout: &'l Layout,
    folder: Folder,
    key: &'k str,
) -> Option<(&'k str, Mapped<'l>)> {
    let prefixes = prefixes(folder, layout.architecture());
    unwrapped(key).find_map(|rest| {
        prefixes.iter().find_map(|prefix| {
            let bare = rest.strip_prefix(prefix)?;
            let found = resolve(layout, folder, bare)?;
            Some((key.strip_suffix(bare)?, found))
        })
    })
}

/// Returns the place in LDM names of a key without prefix, in LDM or diffusers names.
fn resolve<'l>(layout: &'l Layout, folder: Folder, bare: &str) -> Option<Mapped<'l>> {
    if let Some(mapped) = layout.to_ldm(folder, bare) {
        return Some(mapped);
    }
    let prefix = folder.ldm_prefix(layout.architecture())?;
    let found = layout.to_diffusers(&format!("{prefix}{bare}")).next().filter(|found| found.folder == folder)?;
    let written = layout.to_ldm(folder, found.key)?;
    // A spelling that is stored as in diffusers is transposed in LDM names.
    let transform = match (found.transform, written.transform) {
        (Transform::None, Transform::Transpose) => Transform::Transpose,
        _ => Transform::None,
    };
    Some(Mapped { transform, ..written })
}
