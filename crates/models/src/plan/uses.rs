//! What this program can do with a file: the plans decide it.

use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::containers::diffusers::companions;

use crate::checkpoint::Checkpoint;
use crate::completeness::completeness;
use crate::detection::detect;
use crate::file_kind::Use;
use crate::parameterization::Parameterization;
use crate::plan::convert::{self, ConvertOptions};
use crate::plan::{folders, merge_vae};
use crate::{Component, renderable, vae, vae_schema};

/// Lists what this program can do with a file as it is, beside `inspect`, `diff`, `hash` and `scan`, which take any.
/// `predicts` is what the file shows of its UNet. Reads no tensors, except small ones.
pub fn of(checkpoint: &Checkpoint, predicts: &Parameterization) -> Vec<Use> {
    let uses = [
        (Use::MergeVaeCheckpoint, merge_vae::takes_vae(checkpoint)),
        (Use::MergeVaeDonor, merge_vae::has_vae(checkpoint)),
        (Use::ConvertFile, becomes_file(checkpoint)),
        (Use::ConvertFolder, becomes_folder(checkpoint, predicts)),
        (Use::RenderCheck, is_rendered(checkpoint, predicts)),
    ];
    uses.into_iter().filter(|(_, is_possible)| *is_possible).map(|(found, _)| found).collect()
}

fn becomes_file(checkpoint: &Checkpoint) -> bool {
    checkpoint.has_ldm_names() && convert::plan(checkpoint, &ConvertOptions::default()).is_ok()
}

/// Returns whether the conversion to a diffusers folder can be planned.
fn becomes_folder(checkpoint: &Checkpoint, predicts: &Parameterization) -> bool {
    let own = match checkpoint.container() {
        Container::Diffusers => companions(checkpoint.stored()).map(|companions| companions.files),
        _ => Ok(Vec::new()),
    };
    let converted = convert::plan(checkpoint, &ConvertOptions::default().dequantize(true));
    own.and_then(|own| folders::to_folder(converted?, own, predicts, false)).is_ok()
}

/// Returns whether a render takes the checkpoint: a model that it knows, with all tensors of its components.
fn is_rendered(checkpoint: &Checkpoint, predicts: &Parameterization) -> bool {
    let state_dict = checkpoint.state_dict();
    let is_known = renderable::architecture(state_dict).and_then(|it| renderable::check(it, predicts.prediction));
    let architecture = detect(state_dict).architecture();
    let has = |component| {
        let is_there = state_dict.keys().any(|key| Component::from_key(key) == component);
        is_there && completeness(state_dict, component, architecture).is_none_or(|found| found.missing.is_empty())
    };
    // The VAE of another model, such as Flux, has other latents.
    let latents = vae_schema::LATENT_CHANNELS;
    let decoder = state_dict.get(&format!("{}decoder.conv_in.weight", vae::PREFIX));
    let fits = decoder.is_some_and(|tensor| tensor.shape().dims().get(1) == Some(&latents));
    is_known.is_ok() && fits && [Component::Unet, Component::Vae, Component::TextEncoder].into_iter().all(has)
}
