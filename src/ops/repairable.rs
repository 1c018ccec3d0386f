use trinart_ckpt_formats::Error;
use trinart_ckpt_formats::error::{Hint, Kind};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::plan::repair;

/// Adds the hint to repair a file to an error about it, if a repair would remove something.
pub(super) fn repairable(error: Error, checkpoint: &Checkpoint) -> Error {
    let is_about_file = matches!(error.kind(), Kind::Unsupported | Kind::Missing | Kind::Mismatch | Kind::Conflict)
        && error.file() == Some(checkpoint.path())
        && matches!(error.hint(), None | Some(Hint::AllowLoss));
    if !is_about_file {
        return error;
    }
    match repair::plan(checkpoint) {
        Ok(repaired) if !repaired.repairs.is_empty() => error.with_hint(Hint::Repair),
        _ => error,
    }
}
