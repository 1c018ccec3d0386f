//! The names that WebUI looks for when it loads a VAE from beside a checkpoint.

use std::path::{Path, PathBuf};

use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_formats::{Error, Result};

/// Returns `NAME.vae.pt`, `NAME.vae.ckpt` and `NAME.vae.safetensors` for `NAME.ckpt`. Empty if the path has no file name.
fn candidates(checkpoint: &Path) -> Vec<PathBuf> {
    let Some(stem) = checkpoint.file_stem() else { return Vec::new() };
    let name = |ending: &str| {
        let mut name = stem.to_owned();
        name.push(ending);
        checkpoint.with_file_name(name)
    };
    [".vae.pt", ".vae.ckpt", ".vae.safetensors"].map(name).into()
}

/// Returns the VAE file beside a checkpoint. Fails if there is none, or more than one.
pub fn find(checkpoint: &Path) -> Result<PathBuf> {
    let candidates = candidates(checkpoint);
    let names = |paths: &[PathBuf]| -> Vec<String> {
        paths.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let found: Vec<PathBuf> = candidates.iter().filter(|path| path.exists()).cloned().collect();
    let error = match found.as_slice() {
        [only] => return Ok(only.clone()),
        [] => Error::usage(format!("no VAE beside the checkpoint; looked for {}", names(&candidates).join(", "))),
        several => {
            let count = several.len();
            Error::conflict(format!("{count} VAEs beside the checkpoint: {}", names(several).join(", ")))
        }
    };
    Err(error.with_hint(Hint::NameVae).in_file(checkpoint))
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

    #[test]
    fn finds_the_only_vae_and_names_several() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("model.ckpt");
        assert_eq!(find(&checkpoint).unwrap_err().hint(), Some(Hint::NameVae));
        let touch = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        touch("model.vae.pt");
        assert_eq!(find(&checkpoint).unwrap(), folder.path().join("model.vae.pt"));
        touch("model.vae.ckpt");
        touch("model.vae.safetensors");
        let error = find(&checkpoint).unwrap_err().to_string();
        assert!(error.contains("3 VAEs") && error.contains("model.vae.ckpt"), "{error}");
    }
}
