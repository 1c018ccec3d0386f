//! Identifies VAEs: by the values of known files, or else by a hint.

use std::path::{Path, PathBuf};

use super::contents::Contents;
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_formats::walk;
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::{Checkpoint, Component, toolkit};

/// VAE files by their values, to identify VAEs in checkpoints with, whatever their dtypes.
#[derive(Debug, Clone, Default)]
pub struct KnownVaes {
    files: Vec<KnownVae>,
}

#[derive(Debug, Clone)]
struct KnownVae {
    path: PathBuf,
    /// The hash of the values rounded to f16, and to bf16.
    f16: String,
    bf16: String,
}

impl KnownVaes {
    /// Reads the VAEs in folders. Skips files that cannot be read.
    pub fn read<P: AsRef<Path>>(folders: &[P], jobs: usize, progress: &dyn Progress) -> Result<Self> {
        let mut known = KnownVaes::default();
        for path in folders.iter().flat_map(|folder| walk::list_checkpoints(folder.as_ref()).files) {
            progress.check()?;
            let Ok(checkpoint) = Checkpoint::open_with(&path, &OpenOptions::new().keep_dangers()) else { continue };
            let only = |component| component == Component::Vae;
            let of = |round_to| Contents::read_only(&checkpoint, only, round_to, jobs, progress);
            let (Ok(f16), Ok(bf16)) = (of(Dtype::F16), of(Dtype::BF16)) else { continue };
            let hash = |contents: &Contents<'_>| contents.rounded(Component::Vae);
            if let (Some(f16), Some(bf16)) = (hash(&f16), hash(&bf16)) {
                known.files.push(KnownVae { path, f16, bf16 });
            }
        }
        Ok(known)
    }

    /// Returns the file with these values, other than `own`, in words. `bf16` is the hash of a VAE in BF16.
    fn find(&self, own: &Path, f16: &str, bf16: Option<&str>) -> Option<String> {
        let is_equal = |vae: &&KnownVae| vae.path != own && (vae.f16 == f16 || Some(vae.bf16.as_str()) == bf16);
        self.files.iter().find(is_equal).map(|vae| format!("equal to {}", vae.path.display()))
    }
}

/// Identifies the VAE whose values were read from a file: by a known file, or else by a hint.
pub(super) fn identify(own: &Path, contents: &Contents<'_>, known: Option<&KnownVaes>) -> Option<String> {
    let f16 = contents.rounded(Component::Vae)?;
    let bf16 = contents.bf16(Component::Vae);
    let equal = known.and_then(|known| known.find(own, &f16, bf16.as_deref()));
    equal.or_else(|| hint(&contents.sums().vae()))
}

/// A hint which VAE has a number of model-toolkit, in words.
pub(super) fn hint(number: &str) -> Option<String> {
    toolkit::vae_name(number).map(|name| format!("like {name}, by model-toolkit's number {number}; perhaps not equal"))
}
