use crate::checkpoint::Checkpoint;
use crate::file_kind;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::error::{Error, Hint, Result};

/// Fails if the file to merge into has no UNet of Stable Diffusion. If the file given as VAE has one, the error suggests
/// the other order.
pub(super) fn check(base: &Checkpoint, donor: &Checkpoint) -> Result<()> {
    if file_kind::is_base(base.state_dict()) {
        return Ok(());
    }
    let found = file_kind::describe(base.state_dict());
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
