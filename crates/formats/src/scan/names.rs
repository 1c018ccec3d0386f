//! What the name of a file says about it.

use std::path::Path;

/// Whether the file's extension is one of pickles.
pub(super) fn is_named_like_a_pickle(path: &Path) -> bool {
    has_extension(path, &["bin", "ckpt", "dill", "joblib", "p", "pickle", "pkl", "pt", "pth", "sav", "th"])
}

/// Whether the file's extension is one that only checkpoints and arrays have. In a folder, such a file is reported even if
/// it is not one. Tokenizers and other data have `.bin` and `.model`, too.
pub fn is_named_like_a_checkpoint(path: &Path) -> bool {
    const EXTENSIONS: [&str; 12] =
        ["ckpt", "dill", "joblib", "npy", "npz", "pickle", "pkl", "pt", "pt2", "pth", "safetensors", "sft"];
    has_extension(path, &EXTENSIONS)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}
