use std::borrow::Cow;
use std::path::Path;

use super::output::{Mode, OutputOptions, output_methods};
use crate::report::{ComponentSummary, LeftOut, Merged, VaeReport, VaeSummary, WriteReport};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::{Hint, OrInternal, printable};
use trinart_ckpt_formats::{Error, OpenOptions, Result, StateDict, Target};
use trinart_ckpt_models::plan::merge_vae::{self, BaseIdentity, MergeVaeOptions, VaeDtype};
use trinart_ckpt_models::published::{self, PublishedFile};
use trinart_ckpt_models::sidecar::{self, Sidecar};
use trinart_ckpt_models::{Checkpoint, Component, Notice, NoticeCode, hash, vae};

/// The size of the largest checkpoint whose sha256 is recorded. Hashing a larger one would take seconds.
const HASHED_BYTES: u64 = 1 << 29;

/// Merges a VAE into a checkpoint.
///
/// Replaces every tensor of the checkpoint's VAE (`first_stage_model.*`), or inserts the VAE if the checkpoint has none.
/// All other tensors stay byte-identical, in the same order.
///
/// ```no_run
/// use trinart_ckpt::{Checkpoint, MergeVae};
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let base = Checkpoint::open("model.ckpt")?;
/// let vae = Checkpoint::open("kl-f8-anime.vae.pt")?;
/// let report = MergeVae::new(&base, &vae).write("merged.safetensors")?;
/// assert!(report.verified);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MergeVae<'a> {
    base: &'a Checkpoint,
    vae: Cow<'a, Checkpoint>,
    sidecar: Option<Sidecar>,
    options: MergeVaeOptions,
    allow_withdrawn: bool,
    output: OutputOptions<'a>,
}

output_methods!(
    MergeVae,
    "Reads and hashes the file of the VAE, and the VAEs of the checkpoint and of the output, because the report contains \
     their hashes. Reads no other tensor."
);

impl<'a> MergeVae<'a> {
    /// Returns a merge of `vae` into `base`. `vae` may be a bare VAE, a diffusers `AutoencoderKL`, or a whole checkpoint.
    pub fn new(base: &'a Checkpoint, vae: &'a Checkpoint) -> Self {
        Self::with(base, Cow::Borrowed(vae), None)
    }

    /// Returns a merge of the VAE file beside the checkpoint: the first of `NAME.vae.ckpt`, `NAME.vae.pt` and
    /// `NAME.vae.safetensors` that exists. Fails if none does.
    pub fn with_sidecar(base: &'a Checkpoint, options: &OpenOptions) -> Result<Self> {
        let sidecar = sidecar::find(base.path())?;
        let vae = Checkpoint::open_with(&sidecar.path, options)?;
        Ok(Self::with(base, Cow::Owned(vae), Some(sidecar)))
    }

    fn with(base: &'a Checkpoint, vae: Cow<'a, Checkpoint>, sidecar: Option<Sidecar>) -> Self {
        let (options, output) = (MergeVaeOptions::default(), OutputOptions::default());
        MergeVae { base, vae, sidecar, options, allow_withdrawn: false, output }
    }

    /// Sets the dtype of the VAE's tensors. By default they follow [`Self::dtype`], or keep their own.
    #[must_use]
    pub fn vae_dtype(mut self, dtype: VaeDtype) -> Self {
        self.options.vae_dtype = Some(dtype);
        self
    }

    /// Keeps the checkpoint's own tensors where the VAE lacks them, and drops VAE tensors that no VAE has. By default either
    /// is an error.
    #[must_use]
    pub fn partial(mut self, partial: bool) -> Self {
        self.options.partial = partial;
        self
    }

    /// Accepts a VAE of another family than the checkpoint, such as that of SD v1 for SDXL. By default it is an error where
    /// both families are known.
    #[must_use]
    pub fn allow_family_mismatch(mut self, allow: bool) -> Self {
        self.options.allow_family_mismatch = allow;
        self
    }

    /// Accepts a VAE that its authors have withdrawn. By default such a VAE is an error.
    #[must_use]
    pub fn allow_withdrawn(mut self, allow: bool) -> Self {
        self.allow_withdrawn = allow;
        self
    }

    fn run(&self, output: &Path, mode: Mode) -> Result<WriteReport> {
        let (base, vae) = (self.base, self.vae.as_ref());
        let target = self.output.check_destination(output)?;
        let mut options = self.options;
        options.dtype = self.output.dtype;
        options.overflow = self.output.overflow;
        options.dequantize = target == Target::Diffusers;
        // Planning comes before hashing: headers can rule out a merge before half a gigabyte is read.
        let mut resolved = merge_vae::plan(base, vae, &options)?;
        let (sha256, published) = self.identify_vae()?;
        if let Some(published) = published {
            let allow = options.allow_family_mismatch;
            let family = merge_vae::check_published(base, published.architecture(), allow);
            resolved.notices.extend(family.map_err(|error| error.in_file(vae.path()))?);
        }
        if let Some(sidecar) = self.sidecar.as_ref().filter(|sidecar| !sidecar.others.is_empty()) {
            let text = format!("did not use other VAEs beside the checkpoint: {}", sidecar::list(&sidecar.others));
            resolved.notices.push(Notice::new(NoticeCode::OtherVaesBeside, text));
        }
        merge_vae::record(&mut resolved.metadata, base, self.identify_base()?.as_ref(), vae, &sha256);
        let before = self.summary(base.state_dict(), merge_vae::is_of_old_vae);
        let before = before.map_err(|error| error.in_file(base.path()))?;
        let after = self
            .summary(&resolved.state_dict, vae::is_checkpoint_key)?
            .or_internal("a merge has no VAE in its output")?;
        let is_same = before.as_ref().is_some_and(|before| before.content_hash == after.content_hash);

        let report = self.output.write(base, output, target, resolved, mode);
        let mut report = report.map_err(|error| self.at_vae(error))?;
        report.left_out.extend(LeftOut::opaque(vae.stored()).into_iter().map(|mut left_out| {
            left_out.path = format!("{}: {}", vae.file_name(), left_out.path);
            left_out
        }));
        report.vae = Some(VaeReport {
            file: vae.path().to_string_lossy().into_owned(),
            sha256,
            published,
            sidecar: self.sidecar.is_some(),
            before,
            after,
            merged: if is_same { Merged::Same } else { Merged::Changed },
        });
        Ok(report)
    }

    /// Names the VAE file in an error about one of its tensors, such as an overflow.
    fn at_vae(&self, error: Error) -> Error {
        if error.file().is_some() || error.tensor().is_none() {
            return error;
        }
        let base = self.base.path().to_string_lossy().into_owned();
        error.in_file(self.vae.path()).during(format!("merging into {}", printable(&base)))
    }

    /// Returns the sha256 of the VAE file, and the published file with this hash. Fails if that file was withdrawn, unless
    /// it is allowed.
    fn identify_vae(&self) -> Result<(String, Option<&'static PublishedFile>)> {
        let file = self.vae.vae_file()?;
        let sha256 = hash::file_sha256(file, self.output.progress)?;
        let published = published::identify(file.len(), &sha256);
        if !self.allow_withdrawn {
            refuse_withdrawn(published).map_err(|error| error.in_file(self.vae.path()))?;
        }
        Ok((sha256, published))
    }

    /// Returns the hashes by which WebUI finds the checkpoint; `None` for a folder, which has none. A large file is not
    /// hashed, because that would cost another pass over it: its legacy hash is that of 64 KiB, and WebUI finds models
    /// by either hash.
    fn identify_base(&self) -> Result<Option<BaseIdentity>> {
        if self.base.container() == Container::Diffusers {
            return Ok(None);
        }
        let file = self.base.file()?;
        let legacy = hash::legacy_hash(file)?;
        let hash = match file.len() {
            ..=HASHED_BYTES => hash::file_sha256(file, self.output.progress)?,
            _ => legacy.clone(),
        };
        Ok(Some(BaseIdentity { hash, legacy }))
    }

    /// Summarizes and hashes the VAE of a state dict, whose keys `is_vae` recognizes. `None` if it has none.
    fn summary(&self, state_dict: &StateDict, is_vae: fn(&str) -> bool) -> Result<Option<VaeSummary>> {
        let tensors = || state_dict.iter().filter(|(key, _)| is_vae(key));
        let summary = ComponentSummary::new(Component::Vae, tensors().map(|(_, tensor)| tensor));
        if summary.tensors == 0 {
            return Ok(None);
        }
        let content_hash = hash::content_hash(tensors(), self.output.jobs, self.output.progress)?;
        Ok(Some(VaeSummary { summary, content_hash }))
    }
}

fn refuse_withdrawn(known: Option<&PublishedFile>) -> Result<()> {
    match known.and_then(|known| Some((known.name, known.withdrawn?))) {
        Some((name, reason)) => {
            Err(Error::conflict(format!("this is {name}, {reason}")).with_hint(Hint::AllowWithdrawn))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_the_withdrawn_vae_by_name_and_gives_the_hash_of_the_right_one() {
        let right = "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295";
        let wrong = "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f";
        let error = refuse_withdrawn(published::identify(404_661_793, wrong)).unwrap_err().to_string();
        assert!(error.contains("autoencoder_kl-f8-trinart_characters.ckpt"), "{error}");
        assert!(error.contains(right), "{error}");
        assert!(refuse_withdrawn(published::identify(404_661_793, right)).is_ok());
        assert!(refuse_withdrawn(None).is_ok());
    }
}
