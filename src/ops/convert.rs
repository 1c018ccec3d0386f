use std::path::Path;

use super::output::{Mode, OutputOptions, output_methods};
use crate::formats::Result;
use crate::models::plan::convert::{self, Ema, Options};
use crate::models::{Checkpoint, Component};
use crate::report::WriteReport;

/// Moves a checkpoint to another container, layout or dtype, or keeps a part of it.
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
    ema: Option<Ema>,
    prune: bool,
    component: Option<Component>,
    fix_position_ids: bool,
    output: OutputOptions<'a>,
}

output_methods!(Convert);

impl<'a> Convert<'a> {
    /// A conversion that keeps every tensor as it is.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let output = OutputOptions::default();
        Convert { checkpoint, ema: None, prune: false, component: None, fix_position_ids: false, output }
    }

    /// Sets how to treat the EMA weights (`model_ema.*`). By default they are kept, or dropped when pruning.
    #[must_use]
    pub fn ema(mut self, ema: Ema) -> Self {
        self.ema = Some(ema);
        self
    }

    /// Keeps only what inference needs.
    #[must_use]
    pub fn prune(mut self, prune: bool) -> Self {
        self.prune = prune;
        self
    }

    /// Keeps only one component. A VAE alone gets the bare keys that WebUI loads.
    #[must_use]
    pub fn component(mut self, component: Component) -> Self {
        self.component = Some(component);
        self
    }

    /// Makes the text encoder's position_ids I64, 0 to 76.
    #[must_use]
    pub fn fix_position_ids(mut self, fix: bool) -> Self {
        self.fix_position_ids = fix;
        self
    }

    fn run(&self, output: &Path, mode: Mode) -> Result<WriteReport> {
        self.output.check_destination(output)?;
        let mut options = Options::default();
        options.cast = self.output.cast();
        options.ema = self.ema;
        options.prune = self.prune;
        options.component = self.component;
        options.fix_position_ids = self.fix_position_ids;
        let resolved = convert::plan(self.checkpoint, &options)?;
        self.output.write(self.checkpoint, output, resolved, mode)
    }
}
