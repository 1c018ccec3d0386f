//! The names that WebUI looks for when it loads a VAE from beside a checkpoint.

use std::path::{Path, PathBuf};

/// Returns `NAME.vae.pt`, `NAME.vae.ckpt` and `NAME.vae.safetensors` for `NAME.ckpt`. Empty if the path has no file name.
pub fn candidates(checkpoint: &Path) -> Vec<PathBuf> {
    let Some(stem) = checkpoint.file_stem() else { return Vec::new() };
    let name = |ending: &str| {
        let mut name = stem.to_owned();
        name.push(ending);
        checkpoint.with_file_name(name)
    };
    [".vae.pt", ".vae.ckpt", ".vae.safetensors"].map(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_all_but_the_last_extension() {
        let names = candidates(Path::new("models/it4.v1.ckpt"));
        assert_eq!(names[0], Path::new("models/it4.v1.vae.pt"));
        assert_eq!(names.len(), 3);
    }
}
