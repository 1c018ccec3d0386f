//! Writes an output for each of many inputs. An input that fails does not stop the others.

mod destination;
mod recipe;
mod sidecars;

use std::path::{Path, PathBuf};

pub use destination::{output_in, resolve_output};
pub use recipe::version_of;
use recipe::{Recipes, State};

use super::inputs::{Input, Inputs};
use crate::report::{BatchOutcome, BatchSummary, SkipReason};
use trinart_ckpt_formats::error::{Hint, Kind, Result};
use trinart_ckpt_formats::io::{Overwrite, remote};
use trinart_ckpt_formats::{Error, Target};
use trinart_ckpt_models::sidecar::{self, Companion};

/// What a batch does with an output that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// The input fails.
    #[default]
    Refuse,
    /// The output is replaced.
    Replace,
    /// The input is skipped.
    Skip,
    /// The output is replaced if this batch has written it before, and the input or the recipe has changed since.
    Update,
}

/// Where the output of an input goes.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Destination<'a> {
    /// The path or the address.
    pub path: &'a Path,
    /// Whether it may be replaced.
    pub overwrite: bool,
    /// What an output at an address is to keep for later runs, as [`Convert::record`](crate::Convert::record) does.
    pub record: Option<&'a str>,
}

impl<'a> Destination<'a> {
    /// Returns a destination that keeps no record.
    pub fn new(path: &'a Path, overwrite: bool) -> Self {
        Destination { path, overwrite, record: None }
    }
}

/// Writes one output for each input into a folder, which gets the subfolders of the inputs.
///
/// ```no_run
/// use trinart_ckpt::ops::{Batch, Inputs};
/// use trinart_ckpt::report::BatchOutcome;
/// use trinart_ckpt::{Checkpoint, Convert, Dtype};
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let inputs = Inputs::list(["models"]);
/// let summary = Batch::new(&inputs, "small").run(
///     |input, to| {
///         let checkpoint = Checkpoint::open(&input.path)?;
///         let convert = Convert::new(&checkpoint).dtype(Dtype::F16).create_folders(true);
///         let convert = convert.overwrite(to.overwrite).record(to.record);
///         Ok(BatchOutcome::written(convert.write(to.path)?))
///     },
///     |_| {},
/// );
/// println!("{}", summary.to_text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Batch<'a> {
    inputs: &'a Inputs,
    folder: PathBuf,
    format: Option<Target>,
    existing: Existing,
    recipe: String,
    carry: bool,
    merges_vae: bool,
    reads_vae: bool,
    dry_run: bool,
}

impl<'a> Batch<'a> {
    /// Returns a batch that writes into `folder`. The work must create that and its subfolders, as
    /// [`Convert::create_folders`](crate::Convert::create_folders) does.
    pub fn new(inputs: &'a Inputs, folder: impl Into<PathBuf>) -> Self {
        Batch {
            inputs,
            folder: folder.into(),
            format: None,
            existing: Existing::default(),
            recipe: String::new(),
            carry: false,
            merges_vae: false,
            reads_vae: false,
            dry_run: false,
        }
    }

    /// Sets the format of the outputs. By default an output has the name of its input.
    #[must_use]
    pub fn format(mut self, format: Target) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets what to do with outputs that exist.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Describes everything that decides what an output contains, beside its input. [`Existing::Update`] compares it with
    /// that of the run which wrote the output.
    #[must_use]
    pub fn recipe(mut self, recipe: impl Into<String>) -> Self {
        self.recipe = recipe.into();
        self
    }

    /// Copies what lies beside an input and belongs to it, such as previews and configurations, beside its output.
    #[must_use]
    pub fn carry_sidecars(mut self, carry: bool) -> Self {
        self.carry = carry;
        self
    }

    /// Says that VAEs beside the inputs are merged into them, so that they are neither inputs nor carried.
    #[must_use]
    pub fn merges_vae(mut self, merges: bool) -> Self {
        self.merges_vae = merges;
        self
    }

    /// Says that the VAEs beside the inputs decide what the outputs contain.
    #[must_use]
    pub fn reads_vae(mut self, reads: bool) -> Self {
        self.reads_vae = reads;
        self
    }

    /// Says that nothing is written.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Calls `work` with each input and the destination of its output. Passes each outcome to
    /// `each` at once. Stops if `work` is interrupted.
    pub fn run(
        &self,
        mut work: impl FnMut(&Input, &Destination<'_>) -> Result<BatchOutcome>,
        mut each: impl FnMut(&BatchOutcome),
    ) -> BatchSummary {
        let mut summary = BatchSummary::default();
        let mut done = |summary: &mut BatchSummary, outcome: BatchOutcome| {
            summary.add(&outcome);
            each(&outcome);
        };
        for error in &self.inputs.errors {
            let path = error.file().map_or_else(|| self.folder.clone(), Path::to_owned);
            done(&mut summary, BatchOutcome::failed(&path, error));
        }
        let mut recipes = match Recipes::open(&self.folder, self.existing == Existing::Update) {
            Ok(recipes) => recipes,
            Err(error) => {
                done(&mut summary, BatchOutcome::failed(&self.folder, &error));
                return summary;
            }
        };
        let outputs = destination::assign(self.inputs, &self.folder, self.format);
        for (input, output) in self.inputs.files.iter().zip(outputs) {
            // A VAE beside a checkpoint goes with it.
            if input.is_found && (self.carry || self.merges_vae) && sidecar::owner(&input.path).is_some() {
                done(&mut summary, BatchOutcome::skipped(&input.path, SkipReason::Sidecar));
                continue;
            }
            let outcome = match output.and_then(|output| self.one(input, &output, &mut recipes, &mut work)) {
                Ok(outcome) => outcome,
                Err(error) if error.kind() == Kind::Interrupted => {
                    done(&mut summary, BatchOutcome::failed(&input.path, &error));
                    break;
                }
                Err(error) => BatchOutcome::failed(&input.path, &naming(error, &input.path)),
            };
            done(&mut summary, outcome);
        }
        summary
    }

    /// Does the same for one input, with an output that the folder of this batch contains. Its error names the file that
    /// it is about.
    pub fn run_one(
        &self,
        input: &Input,
        output: &Path,
        mut work: impl FnMut(&Input, &Destination<'_>) -> Result<BatchOutcome>,
    ) -> Result<BatchOutcome> {
        let mut recipes = Recipes::open(&self.folder, self.existing == Existing::Update)?;
        self.one(input, output, &mut recipes, &mut work)
    }

    fn one(
        &self,
        input: &Input,
        output: &Path,
        recipes: &mut Recipes,
        work: &mut impl FnMut(&Input, &Destination<'_>) -> Result<BatchOutcome>,
    ) -> Result<BatchOutcome> {
        let recipe = self.recipe_for(&input.path)?;
        let mark = recipes.mark(output, &input.path, &recipe)?;
        let skipped = |reason| Ok(BatchOutcome::skipped(&input.path, reason));
        let overwrite = match self.existing {
            Existing::Refuse => false,
            Existing::Replace => true,
            Existing::Skip if exists(output)? => return skipped(SkipReason::Exists),
            Existing::Skip => false,
            Existing::Update => match recipes.state(output, &input.path, &recipe, mark.as_deref())? {
                State::Missing => false,
                State::Current => return skipped(SkipReason::UpToDate),
                State::Outdated => true,
                State::Unknown => {
                    let found = "already exists, and no run with a record of it has written it";
                    return Err(Error::conflict(found).with_hint(Hint::Overwrite).in_file(output));
                }
            },
        };
        let to = Destination { path: output, overwrite, record: mark.as_deref() };
        let mut report = match work(input, &to)? {
            BatchOutcome::Written(report) => report,
            other => return Ok(other),
        };
        if self.carry {
            let overwrite = Overwrite::allowed(overwrite);
            sidecars::carry(&input.path, output, self.merges_vae, overwrite, self.dry_run, &mut report)?;
        }
        if !self.dry_run {
            recipes.record(output, &input.path, &recipe)?;
        }
        Ok(BatchOutcome::Written(report))
    }

    /// The recipe, and the versions of the files beside an input that decide what its output contains.
    fn recipe_for(&self, input: &Path) -> Result<String> {
        let mut recipe = self.recipe.clone();
        if self.existing == Existing::Update {
            let counts = |found: &&Companion| found.ending == ".yaml" || self.reads_vae && found.is_vae();
            for found in sidecar::companions(input)?.unwrap_or_default().iter().filter(counts) {
                recipe += &format!(" {} {}", found.ending, version_of(&found.path)?);
            }
        }
        Ok(recipe)
    }
}

/// Whether there is an output. At an address, this is a request.
fn exists(output: &Path) -> Result<bool> {
    match remote::address(output) {
        Some(_) => Ok(remote::stored(output)?.is_some()),
        None => Ok(output.exists()),
    }
}

/// Names the input in an error about another file.
fn naming(error: Error, input: &Path) -> Error {
    match error.file() {
        Some(file) if file != input && !error.to_string().contains(&*input.to_string_lossy()) => {
            let input = input.to_string_lossy().into_owned();
            error.during(format!("working on {input}"))
        }
        _ => error.in_file(input),
    }
}
