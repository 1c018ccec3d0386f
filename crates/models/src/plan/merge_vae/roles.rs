use crate::checkpoint::Checkpoint;
use crate::family::Task;
use crate::file_kind::{self, FileKind, Identity};
use crate::plan::merge_vae::MergeVaeOptions;
use crate::plan::spelling;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// Fails if the file to merge into has no UNet of Stable Diffusion. The error suggests the other order, if that merge can be
/// planned.
pub(super) fn check(base: &Checkpoint, donor: &Checkpoint, options: &MergeVaeOptions) -> Result<()> {
    if file_kind::is_base(base.state_dict()) {
        return refuse_other_latents(base);
    }
    let found = found(base.state_dict());
    let donor_path = printable(&donor.path().to_string_lossy());
    let expected = "expected a checkpoint with a Stable Diffusion UNet (model.diffusion_model.…)";
    // The plan of the other order does not come here again: its base has the UNet.
    let error = if file_kind::is_base(donor.state_dict()) && super::plan(donor, base, options).is_ok() {
        let found = format!("{expected}, found: {found}; {donor_path} is such a checkpoint");
        Error::usage(found).with_hint(Hint::SwapInputs)
    } else {
        Error::unsupported(format!("{expected} to merge the VAE {donor_path} into, found: {found}"))
    };
    Err(error.in_file(base.path()))
}

/// Describes a file that is no checkpoint to merge into.
fn found(state_dict: &StateDict) -> String {
    let identity = Identity::of(state_dict);
    let wrapper = printable(&identity.wrapper);
    let unet = spelling::unet_anywhere(state_dict).map(printable);
    match (identity.kind, unet) {
        (FileKind::Checkpoint, _) if !wrapper.is_empty() => format!("a checkpoint whose keys all begin with {wrapper}"),
        (FileKind::Checkpoint, Some(unet)) if state_dict.contains(&format!("{unet}conv_in.weight")) => {
            "a checkpoint in names of diffusers that cannot be translated".to_owned()
        }
        (FileKind::Checkpoint, Some(unet)) => format!("a checkpoint with its UNet under {unet}…"),
        (FileKind::Unet, Some(unet)) if unet.is_empty() => "a UNet alone, without this prefix".to_owned(),
        (FileKind::Unet, Some(unet)) => format!("a UNet alone, under {unet}…"),
        _ => file_kind::describe(state_dict),
    }
}

/// Returns whether a VAE can be merged into a file.
pub(super) fn is_base(checkpoint: &Checkpoint) -> bool {
    file_kind::is_base(checkpoint.state_dict()) && refuse_other_latents(checkpoint).is_ok()
}

/// Fails if the UNet takes other latents than those of the VAE (kl-f8), as an x4 upscaler does.
fn refuse_other_latents(base: &Checkpoint) -> Result<()> {
    const CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";
    let channels = base.state_dict().get(CONV_IN).and_then(|tensor| tensor.shape().dims().get(1).copied());
    match channels.map(|channels| Task::from_channels(channels, false)) {
        Some(Task::Other(channels)) => {
            let found =
                format!("a UNet with {channels} input channels, which is of another kind than Stable Diffusion");
            Err(Error::unsupported(found).in_tensor(CONV_IN).in_file(base.path()))
        }
        _ => Ok(()),
    }
}
