use crate::checkpoint::Checkpoint;
use crate::family::Task;
use crate::file_kind::{self, FileKind};
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::error::{Error, Hint, Result};

/// Fails if the file to merge into has no UNet of Stable Diffusion. If the file given as VAE has one, the error suggests
/// the other order.
pub(super) fn check(base: &Checkpoint, donor: &Checkpoint) -> Result<()> {
    if file_kind::is_base(base.state_dict()) {
        return refuse_other_latents(base);
    }
    let found = match FileKind::of(base.state_dict()) {
        FileKind::Checkpoint => "a checkpoint in names of diffusers that cannot be translated".to_owned(),
        FileKind::Unet => "a UNet without this prefix".to_owned(),
        _ => file_kind::describe(base.state_dict()),
    };
    let donor_path = printable(&donor.path().to_string_lossy());
    let expected = "expected a checkpoint with a Stable Diffusion UNet (model.diffusion_model.…)";
    let error = if file_kind::is_base(donor.state_dict()) {
        let found = format!("{expected}, found: {found}; {donor_path} is such a checkpoint");
        Error::usage(found).with_hint(Hint::SwapInputs)
    } else {
        Error::unsupported(format!("{expected} to merge the VAE {donor_path} into, found: {found}"))
    };
    Err(error.in_file(base.path()))
}

/// Fails if the UNet takes other latents than those of the VAE (kl-f8), as an x4 upscaler does.
fn refuse_other_latents(base: &Checkpoint) -> Result<()> {
    const CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";
    let channels = base.state_dict().get(CONV_IN).and_then(|tensor| tensor.shape().dims().get(1).copied());
    match channels.map(Task::from_channels) {
        Some(Task::Other(channels)) => {
            let found =
                format!("a UNet with {channels} input channels, which is of another kind than Stable Diffusion");
            Err(Error::unsupported(found).in_tensor(CONV_IN).in_file(base.path()))
        }
        _ => Ok(()),
    }
}
