use std::path::Path;

use super::output::{Mode, OutputOptions};
use super::output_methods::output_methods;
use super::parts::Replacements;
use super::repairable::repairable;
use crate::report::WriteReport;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_formats::{Error, Result, Target};
use trinart_ckpt_models::lora::LoraNames;
use trinart_ckpt_models::plan::assemble::Parts;
use trinart_ckpt_models::plan::convert::{self, ConvertOptions, Ema};
use trinart_ckpt_models::plan::patterns::{Pattern, Renaming, Selection};
use trinart_ckpt_models::plan::{ComponentDtype, Resolved, TextEncoder};
use trinart_ckpt_models::plan::{lora, repair};
use trinart_ckpt_models::{Checkpoint, Component};

/// Converts a checkpoint to another container, layout or dtype, or extracts a part of it.
///
/// ```no_run
/// use trinart_ckpt::{Checkpoint, Convert, Dtype};
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let checkpoint = Checkpoint::open("model.ckpt")?;
/// Convert::new(&checkpoint).dtype(Dtype::F16).prune(true).write("model.safetensors")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Convert<'a> {
    checkpoint: Option<&'a Checkpoint>,
    replacements: Replacements<'a>,
    selection: Selection,
    repair: bool,
    lora_names: Option<LoraNames>,
    options: ConvertOptions,
    output: OutputOptions<'a>,
}

output_methods!(
    Convert,
    "Reads only headers, position_ids, and the descriptions and tables of quantized weights. Hashes the files of \
     components that replace others, and the VAEs before and after."
);

impl<'a> Convert<'a> {
    /// Returns a conversion that keeps every tensor unchanged.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self::with(Some(checkpoint), Parts::default())
    }

    /// Returns a conversion that puts a checkpoint together from the components of several files. There must be a file for
    /// each component of the architecture that the UNet implies.
    ///
    /// ```no_run
    /// use trinart_ckpt::{Checkpoint, Convert, Parts};
    ///
    /// # fn main() -> trinart_ckpt::Result<()> {
    /// let unet = Checkpoint::open("unet.safetensors")?;
    /// let text_encoder = Checkpoint::open("clip_l.safetensors")?;
    /// let vae = Checkpoint::open("vae.safetensors")?;
    /// let parts = Parts::default().unet(&unet).text_encoder(&text_encoder).vae(&vae);
    /// Convert::from_parts(parts).write("model.safetensors")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_parts(parts: Parts<'a>) -> Self {
        Self::with(None, parts)
    }

    fn with(checkpoint: Option<&'a Checkpoint>, parts: Parts<'a>) -> Self {
        let (options, output) = (ConvertOptions::default(), OutputOptions::default());
        let (replacements, selection) = (Replacements::new(parts), Selection::default());
        Convert { checkpoint, replacements, selection, repair: false, lora_names: None, options, output }
    }

    /// Replaces components of the checkpoint by those of other files. A file may hold the component alone or be a whole
    /// checkpoint, in LDM or diffusers names. What the UNet predicts goes with the UNet; its EMA is dropped.
    #[must_use]
    pub fn replace(mut self, parts: Parts<'a>) -> Self {
        self.replacements.parts = parts;
        self
    }

    /// Takes only the tensors with such names, as the file of the checkpoint stores them. Several patterns add up. A pattern
    /// that is for no tensor is an error.
    #[must_use]
    pub fn select(mut self, pattern: Pattern) -> Self {
        self.selection.select.push(pattern);
        self
    }

    /// Leaves out the tensors with such names, as the file of the checkpoint stores them, after [`Self::select`]. A pattern
    /// that is for no tensor is an error.
    #[must_use]
    pub fn leave_out(mut self, pattern: Pattern) -> Self {
        self.selection.drop.push(pattern);
        self
    }

    /// Renames the tensors of the output, a single file, after all else. The first renaming that is for a name decides. One
    /// that is used for no tensor is an error, and so are two tensors with the same name.
    #[must_use]
    pub fn rename(mut self, renaming: Renaming) -> Self {
        self.output.renamings.push(renaming);
        self
    }

    /// Repairs the checkpoint first: names and prefixes that programs do not look for, wrong ranks, position_ids, F64,
    /// duplicates, bytes behind the tensors. Nothing else changes. A defect that cannot be repaired is an error.
    ///
    /// A file with bytes behind its tensors opens only with
    /// [`OpenOptions::keep_trailing_bytes`](crate::OpenOptions::keep_trailing_bytes).
    #[must_use]
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Gives the tensors of a LoRA for SD v1, SD v2 or SDXL these names. The scale of each change stays the same. Names of PEFT
    /// come with an `adapter_config.json` beside the output.
    ///
    /// A file of another kind is an error, and so is a kind of change that the names cannot express.
    #[must_use]
    pub fn lora_names(mut self, names: LoraNames) -> Self {
        self.lora_names = Some(names);
        self
    }

    /// Keeps the checkpoint's own tensors where the new VAE lacks them. By default a missing tensor is an error.
    #[must_use]
    pub fn partial(mut self, partial: bool) -> Self {
        self.replacements.options.partial = partial;
        self
    }

    /// Accepts a VAE of another family than the checkpoint. By default it is an error where both families are known.
    #[must_use]
    pub fn allow_family_mismatch(mut self, allow: bool) -> Self {
        self.replacements.options.allow_family_mismatch = allow;
        self
    }

    /// Accepts a VAE that its authors have withdrawn. By default such a VAE is an error.
    #[must_use]
    pub fn allow_withdrawn(mut self, allow: bool) -> Self {
        self.replacements.allow_withdrawn = allow;
        self
    }

    /// Sets how to treat the EMA weights (`model_ema.*`). By default they are kept, or dropped when pruning.
    #[must_use]
    pub fn ema(mut self, ema: Ema) -> Self {
        self.options.ema = Some(ema);
        self
    }

    /// Drops what is known to be useless for inference: averages, schedule buffers, training residue. Keeps a file of unknown
    /// architecture whole.
    #[must_use]
    pub fn prune(mut self, prune: bool) -> Self {
        self.options.prune = prune;
        self
    }

    /// Keeps only one component. A VAE gets keys without prefix, as WebUI loads it.
    #[must_use]
    pub fn component(mut self, component: Component) -> Self {
        self.options.component = Some(component);
        self
    }

    /// Keeps only one text encoder of SDXL base, under keys without prefix, as programs load it.
    #[must_use]
    pub fn text_encoder(mut self, only: TextEncoder) -> Self {
        self.options = self.options.text_encoder(only);
        self
    }

    /// Corrects the text encoder's position_ids (I64, 0 to 76), and adds missing ones.
    #[must_use]
    pub fn fix_position_ids(mut self, fix: bool) -> Self {
        self.options.fix_position_ids = fix;
        self
    }

    /// Sets the dtype of the UNet. By default it follows [`Self::dtype`].
    #[must_use]
    pub fn unet_dtype(mut self, dtype: ComponentDtype) -> Self {
        self.options.dtypes.unet = Some(dtype);
        self
    }

    /// Sets the dtype of the VAE. By default it follows [`Self::dtype`].
    #[must_use]
    pub fn vae_dtype(mut self, dtype: ComponentDtype) -> Self {
        self.options.dtypes.vae = Some(dtype);
        self
    }

    /// Sets the dtype of the text encoders. By default it follows [`Self::dtype`].
    #[must_use]
    pub fn text_encoder_dtype(mut self, dtype: ComponentDtype) -> Self {
        self.options.dtypes.text_encoder = Some(dtype);
        self
    }

    fn run(&self, output: &Path, mode: Mode) -> Result<WriteReport> {
        self.repair_and_convert(output, mode).map_err(|error| match self.checkpoint {
            Some(checkpoint) if !self.repair => repairable(error, checkpoint, || {
                let repaired = self.clone().repair(true);
                repaired.repair_and_convert(output, Mode::Plan).map(drop)
            }),
            _ => error,
        })
    }

    fn repair_and_convert(&self, output: &Path, mode: Mode) -> Result<WriteReport> {
        let target = self.output.check_destination(output, mode)?;
        let selected = match self.checkpoint.filter(|_| !self.selection.is_all()) {
            Some(checkpoint) => Some(self.selection.plan(checkpoint)?),
            None => None,
        };
        let checkpoint = selected.as_ref().map(|selected| &selected.checkpoint).or(self.checkpoint);
        let selected = selected.as_ref().map(|selected| &selected.resolved);
        let mut options = self.options;
        options.cast = self.output.cast();
        options.allow_loss = self.output.allow_loss;
        options.overflow = self.output.overflow;
        options.dequantize = target == Target::Diffusers;
        let input = checkpoint.or(self.replacements.parts.unet);
        let input = input.ok_or_else(|| {
            Error::usage("neither a checkpoint nor a file for the UNet").with_hint(Hint::NameComponents)
        })?;
        let repaired = checkpoint.filter(|_| self.repair).map(repair::plan).transpose()?;
        let mut writing = self.output.clone();
        let mut base = Base { checkpoint, earlier: selected.cloned() };
        if let Some(repaired) = repaired.as_ref().filter(|repaired| !repaired.repairs.is_empty()) {
            if input.container() != Container::Diffusers {
                writing.found = Some(repaired.checkpoint.parameterization()?);
            }
            base = base.then(&repaired.checkpoint, repaired.resolved.clone())?;
        }
        let named = self.named(base.checkpoint, target)?;
        if let Some(named) = &named {
            writing.adapter_config.clone_from(&named.config);
            base = base.then(&named.checkpoint, named.resolved.clone())?;
        }
        let mut report = self.convert(input, base, &options, &writing, output, target, mode)?;
        report.repairs = repaired.map(|repaired| repaired.repairs);
        Ok(report)
    }

    /// Gives the tensors of a LoRA their new names, if some are requested.
    fn named(&self, checkpoint: Option<&Checkpoint>, target: Target) -> Result<Option<lora::Named>> {
        let (Some(names), Some(checkpoint)) = (self.lora_names, checkpoint) else { return Ok(None) };
        if target == Target::Diffusers {
            return Err(Error::usage("a LoRA is a file, also in the names of diffusers"));
        }
        let named = lora::plan(checkpoint, names)?;
        if named.needs_metadata && target != Target::Safetensors {
            let found =
                "the scale (alpha) of a LoRA in the names of diffusers is metadata, which only .safetensors files have";
            return Err(Error::unsupported(found).in_file(checkpoint.path()));
        }
        Ok(Some(named))
    }

    /// Converts the checkpoint with the components of other files.
    #[expect(clippy::too_many_arguments, reason = "private, and called with what `run` has decided")]
    fn convert(
        &self,
        input: &Checkpoint,
        base: Base<'_>,
        options: &ConvertOptions,
        writing: &OutputOptions<'_>,
        output: &Path,
        target: Target,
        mode: Mode,
    ) -> Result<WriteReport> {
        let Base { checkpoint: base, earlier } = base;
        if self.replacements.parts.is_empty() {
            let resolved = convert::plan(base.unwrap_or(input), options)?;
            let resolved = match earlier {
                Some(earlier) => earlier.then(resolved)?,
                None => resolved,
            };
            return writing.write(input, output, target, resolved, mode);
        }
        let mut replaced = self.replacements.apply(base, writing)?;
        if let Some(earlier) = earlier {
            replaced.assembled.resolved = earlier.then(replaced.assembled.resolved)?;
        }
        let converted = convert::plan(&replaced.assembled.checkpoint, options)?;
        replaced.write(input, writing, output, target, converted, mode)
    }
}

/// The checkpoint that is converted: the input, or what earlier plans have made of it.
struct Base<'c> {
    checkpoint: Option<&'c Checkpoint>,
    /// The plans before the conversion: a selection, a repair, new names for a LoRA.
    earlier: Option<Resolved>,
}

impl<'c> Base<'c> {
    /// The checkpoint after another plan.
    fn then(self, checkpoint: &'c Checkpoint, resolved: Resolved) -> Result<Self> {
        let earlier = match self.earlier {
            Some(earlier) => earlier.then(resolved)?,
            None => resolved,
        };
        Ok(Base { checkpoint: Some(checkpoint), earlier: Some(earlier) })
    }
}
