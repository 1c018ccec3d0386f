use std::path::Path;

use super::output::{Mode, OutputOptions, output_methods};
use crate::report::WriteReport;
use trinart_ckpt_formats::{Result, Target};
use trinart_ckpt_models::plan::ComponentDtype;
use trinart_ckpt_models::plan::convert::{self, ConvertOptions, Ema};
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
    checkpoint: &'a Checkpoint,
    options: ConvertOptions,
    output: OutputOptions<'a>,
}

output_methods!(Convert, "Reads only headers, position_ids, and the descriptions and tables of quantized weights.");

impl<'a> Convert<'a> {
    /// Returns a conversion that keeps every tensor unchanged.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Convert { checkpoint, options: ConvertOptions::default(), output: OutputOptions::default() }
    }

    /// Sets how to treat the EMA weights (`model_ema.*`). By default they are kept, or dropped when pruning.
    #[must_use]
    pub fn ema(mut self, ema: Ema) -> Self {
        self.options.ema = Some(ema);
        self
    }

    /// Keeps only what inference needs.
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
        let target = self.output.check_destination(output)?;
        let mut options = self.options;
        options.cast = self.output.cast();
        options.overflow = self.output.overflow;
        options.dequantize = target == Target::Diffusers;
        let resolved = convert::plan(self.checkpoint, &options)?;
        self.output.write(self.checkpoint, output, target, resolved, mode)
    }
}
