use std::borrow::Cow;
use std::path::Path;

use super::output::{Mode, OutputOptions};
use super::output_methods::output_methods;
use super::repairable::repairable;
use super::vae_file;
use crate::report::{LeftOut, Merged, VaeReport, WriteReport};
use trinart_ckpt_formats::error::{OrInternal, printable};
use trinart_ckpt_formats::{Error, OpenOptions, Result, Target};
use trinart_ckpt_models::ledger::Origin;
use trinart_ckpt_models::plan::merge_vae::{self, MergeVaeOptions, VaeDtype};
use trinart_ckpt_models::plan::record::{self, PartIdentity};
use trinart_ckpt_models::plan::repair;
use trinart_ckpt_models::sidecar::{self, Sidecar};
use trinart_ckpt_models::{Checkpoint, FileKind, Notice, NoticeCode, vae};

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

    /// Fails if the file of a VAE was withdrawn by its authors, as far as the server of an address states its sha256. Reads
    /// nothing of the file, and so comes before opening it. A merge examines what it reads, whatever the server states.
    pub fn refuse_withdrawn(vae: &Path) -> Result<()> {
        vae_file::refuse_withdrawn_address(vae)
    }

    fn with(base: &'a Checkpoint, vae: Cow<'a, Checkpoint>, sidecar: Option<Sidecar>) -> Self {
        let (options, output) = (MergeVaeOptions::default(), OutputOptions::default());
        MergeVae { base, vae, sidecar, options, allow_withdrawn: false, output }
    }

    /// Returns whether a VAE can be merged into a file by its keys: it is a Stable Diffusion checkpoint.
    pub fn takes(base: &Checkpoint) -> bool {
        FileKind::of(base.state_dict()) == FileKind::Checkpoint
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
        self.merge(output, mode).map_err(|error| {
            repairable(error, self.base, || {
                let repaired = repair::plan(self.base)?;
                merge_vae::plan(&repaired.checkpoint, &self.vae, &self.options).map(drop)
            })
        })
    }

    fn merge(&self, output: &Path, mode: Mode) -> Result<WriteReport> {
        let (base, vae) = (self.base, self.vae.as_ref());
        let target = self.output.check_destination(output, mode)?;
        base.require_ldm_names()?;
        vae.require_ldm_names()?;
        let mut options = self.options;
        options.dtype = self.output.dtype;
        options.overflow = self.output.overflow;
        options.dequantize = target == Target::Diffusers;
        // Planning comes before hashing: headers can rule out a merge before half a gigabyte is read.
        let mut resolved = merge_vae::plan(base, vae, &options)?;
        let (sha256, published) = vae_file::identify(vae, self.allow_withdrawn, self.output.progress)?;
        vae_file::check_family(base, vae, &sha256, options.allow_family_mismatch, &mut resolved)?;
        if let Some(sidecar) = self.sidecar.as_ref().filter(|sidecar| !sidecar.others.is_empty()) {
            let text = format!("did not use other VAEs beside the checkpoint: {}", sidecar::list(&sidecar.others));
            resolved.notices.push(Notice::new(NoticeCode::OtherVaesBeside, text));
        }
        let identity = vae_file::identify_base(base, self.output.progress)?;
        let part = PartIdentity { origin: Origin::Vae, name: vae.file_name(), sha256: vec![sha256.clone()] };
        let identity = identity.as_ref().map(|identity| (base, identity));
        record::record(&mut resolved.metadata, "trinart-ckpt merge-vae", identity, &[part]);
        let before = vae_file::summary(&self.output, base.state_dict(), merge_vae::is_of_old_vae);
        let before = before.map_err(|error| error.in_file(base.path()))?;
        let after = vae_file::summary(&self.output, &resolved.state_dict, vae::is_checkpoint_key);
        let after = after.map_err(|error| self.at_vae(self.output.at_input(error, &resolved.ledger, base)))?;
        let after = after.or_internal("a merge has no VAE in its output")?;
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
}
