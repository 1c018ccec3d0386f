use trinart_ckpt_formats::error::{Hint, Kind};
use trinart_ckpt_formats::{Error, Result};
use trinart_ckpt_models::Checkpoint;

/// Adds the hint to repair a file to an error about it, if the operation works with the repaired file. `retry` plans it.
pub(super) fn repairable(error: Error, checkpoint: &Checkpoint, retry: impl FnOnce() -> Result<()>) -> Error {
    let is_about_file = matches!(error.kind(), Kind::Unsupported | Kind::Missing | Kind::Mismatch | Kind::Conflict)
        && error.file() == Some(checkpoint.path())
        && matches!(error.hint(), None | Some(Hint::AllowLoss));
    match is_about_file && retry().is_ok() {
        true => error.with_hint(Hint::Repair),
        false => error,
    }
}
