//! The names under which WebUI users keep an autoencoder beside a checkpoint.

use std::path::{Path, PathBuf};

/// `NAME.vae.pt`, `NAME.vae.ckpt`, `NAME.vae.safetensors` for `NAME.ckpt`.
pub fn candidates(checkpoint: &Path) -> Vec<PathBuf> {
    let stem = checkpoint.file_stem().unwrap_or_default();
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
    fn names_follow_the_checkpoint() {
        let names = candidates(Path::new("models/it4.v1.ckpt"));
        assert_eq!(names[0], Path::new("models/it4.v1.vae.pt"));
        assert_eq!(names.len(), 3);
    }
}
