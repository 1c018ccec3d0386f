//! Identifies VAEs: by the values of known files, or else by a hint.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::contents::{Contents, RoundedVae};
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_formats::walk;
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::{Checkpoint, Component, toolkit};

/// Elements of the largest tensor of a sample: the biases and norms.
const SAMPLED: u64 = 4096;

/// VAE files, to identify VAEs in checkpoints with, whatever their dtypes.
#[derive(Debug, Clone, Default)]
pub struct KnownVaes {
    files: Vec<KnownVae>,
    jobs: usize,
}

#[derive(Debug, Clone)]
struct KnownVae {
    path: PathBuf,
    checkpoint: Checkpoint,
    sample: RoundedVae,
    /// All values, once a VAE has the same sample; `None` if they cannot be read.
    whole: OnceLock<Option<RoundedVae>>,
}

/// Reads the small tensors of a VAE; `None` without one.
fn sample(checkpoint: &Checkpoint, jobs: usize, progress: &dyn Progress) -> Result<Option<RoundedVae>> {
    Ok(Contents::read_only(checkpoint, is_sampled, jobs, progress)?.vae())
}

fn is_sampled(component: Component, tensor: &LazyTensor) -> bool {
    component == Component::Vae && tensor.shape().elements() <= SAMPLED
}

/// Reads all of a VAE; `None` without one.
fn whole(checkpoint: &Checkpoint, jobs: usize, progress: &dyn Progress) -> Result<Contents<'static>> {
    Contents::read_only(checkpoint, |component, _| component == Component::Vae, jobs, progress)
}

impl KnownVaes {
    /// Opens the VAEs in folders, and reads their small tensors; the others only when a VAE has the same small ones. Skips files
    /// that cannot be read.
    pub fn read<P: AsRef<Path>>(folders: &[P], jobs: usize, progress: &dyn Progress) -> Result<Self> {
        let mut known = KnownVaes { files: Vec::new(), jobs };
        for path in folders.iter().flat_map(|folder| walk::list_checkpoints(folder.as_ref()).files) {
            progress.check()?;
            let Ok(checkpoint) = Checkpoint::open_with(&path, &OpenOptions::new().keep_dangers()) else { continue };
            if let Ok(Some(sample)) = sample(&checkpoint, jobs, progress) {
                known.files.push(KnownVae { path, checkpoint, sample, whole: OnceLock::new() });
            }
        }
        Ok(known)
    }

    /// The files other than `own` that a VAE may be equal to.
    fn candidates(&self, own: &Path, sample: &RoundedVae) -> Vec<&KnownVae> {
        self.files.iter().filter(|vae| vae.path != own && vae.sample.is_equal(sample)).collect()
    }

    /// Returns the file among candidates that has these values, in words.
    fn equal(&self, candidates: &[&KnownVae], vae: &RoundedVae, progress: &dyn Progress) -> Option<String> {
        let is_equal = |known: &&&KnownVae| {
            let read = || whole(&known.checkpoint, self.jobs, progress).ok()?.vae();
            known.whole.get_or_init(read).as_ref().is_some_and(|known| known.is_equal(vae))
        };
        candidates.iter().find(is_equal).map(|known| format!("equal to {}", known.path.display()))
    }

    /// Identifies the VAE of a checkpoint. Reads it only if a file may be equal to it, or, `with_hint`, for a hint.
    pub(super) fn identify(
        &self,
        checkpoint: &Checkpoint,
        with_hint: bool,
        progress: &dyn Progress,
    ) -> Result<Option<String>> {
        let Some(sample) = sample(checkpoint, self.jobs, progress)? else { return Ok(None) };
        let candidates = self.candidates(checkpoint.path(), &sample);
        if candidates.is_empty() && !with_hint {
            return Ok(None);
        }
        let contents = whole(checkpoint, self.jobs, progress)?;
        let equal = contents.vae().and_then(|vae| self.equal(&candidates, &vae, progress));
        Ok(equal.or_else(|| hint(&contents.sums().vae())))
    }
}

/// Identifies the VAE whose values were read from a file: by a known file, or else by a hint.
pub(super) fn identify(
    own: &Path,
    contents: &Contents<'_>,
    known: Option<&KnownVaes>,
    progress: &dyn Progress,
) -> Option<String> {
    let vae = contents.vae()?;
    let equal = known.and_then(|known| {
        let candidates = known.candidates(own, &contents.only(is_sampled).vae()?);
        known.equal(&candidates, &vae, progress)
    });
    equal.or_else(|| hint(&contents.sums().vae()))
}

/// A hint which VAE has a number of model-toolkit, in words.
pub(super) fn hint(number: &str) -> Option<String> {
    toolkit::vae_name(number).map(|name| format!("like {name}, by model-toolkit's number {number}; perhaps not equal"))
}
