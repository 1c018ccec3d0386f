use std::collections::BTreeSet;

use super::jobs::check_jobs;
use super::run_methods::run_methods;
use crate::report::{ComparedTensors, Difference, NonFiniteSides};
use trinart_ckpt_formats::Result;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::tensor::NonFiniteTensor;
use trinart_ckpt_models::compare::{KeyPair, TensorComparison, pair_up, read_both};
use trinart_ckpt_models::measures::Tolerance;
use trinart_ckpt_models::plan::folders;
use trinart_ckpt_models::quantization::ByValue;
use trinart_ckpt_models::{Checkpoint, Component, vae};

/// A difference that a comparison can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// Dtypes: tensors are equal if one has the other's values rounded to its dtype.
    Dtype,
    /// The plain values beside the tensors.
    Metadata,
    /// EMA weights.
    Ema,
    /// Schedule buffers.
    Schedule,
}

/// What is compared.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct CompareOptions {
    /// The components; empty means all.
    pub components: Vec<Component>,
    /// What makes no difference.
    pub ignored: Vec<Ignored>,
    /// With a tolerance, measures how far the values are apart.
    pub measured: Option<Tolerance>,
}

impl CompareOptions {
    /// Compares only these components, in addition to those that were named before.
    #[must_use]
    pub fn component(mut self, component: Component) -> Self {
        self.components.push(component);
        self
    }

    /// Leaves out a difference.
    #[must_use]
    pub fn ignore(mut self, ignored: Ignored) -> Self {
        self.ignored.push(ignored);
        self
    }

    /// Measures how far the values are apart, and which are closer than this.
    #[must_use]
    pub fn measure(mut self, tolerance: Tolerance) -> Self {
        self.measured = Some(tolerance);
        self
    }

    fn ignores(&self, what: Ignored) -> bool {
        self.ignored.contains(&what)
    }

    /// Whether the tensors of a component are compared.
    fn includes(&self, component: Component) -> bool {
        let is_ignored = match component {
            Component::Ema => self.ignores(Ignored::Ema),
            Component::Schedule => self.ignores(Ignored::Schedule),
            _ => false,
        };
        !is_ignored && (self.components.is_empty() || self.components.contains(&component))
    }
}

/// Compares two checkpoints tensor by tensor. Their containers and layouts may differ.
///
/// ```no_run
/// use trinart_ckpt::{Checkpoint, Compare};
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let (a, b) = (Checkpoint::open("model.ckpt")?, Checkpoint::open("model.safetensors")?);
/// assert!(Compare::new(&a, &b).run()?.equal);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Compare<'a> {
    a: &'a Checkpoint,
    b: &'a Checkpoint,
    options: CompareOptions,
    jobs: usize,
    progress: &'a dyn Progress,
}

/// What a comparison would read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComparePlan {
    /// Keys that both sides have with the same shape: their values would be compared.
    pub compared: Vec<String>,
    /// Keys that both sides have with different shapes.
    pub reshaped: Vec<String>,
    /// Keys that only the first checkpoint has.
    pub only_in_a: Vec<String>,
    /// Keys that only the second checkpoint has.
    pub only_in_b: Vec<String>,
    /// Tensors of one side that the other, a diffusers folder, cannot hold.
    pub not_compared: usize,
}

run_methods!(Compare, jobs, progress);

impl<'a> Compare<'a> {
    /// Returns a comparison of two opened checkpoints.
    pub fn new(a: &'a Checkpoint, b: &'a Checkpoint) -> Self {
        Compare { a, b, options: CompareOptions::default(), jobs: parallel::default_jobs(), progress: &NoProgress }
    }

    /// Sets what is compared.
    #[must_use]
    pub fn options(mut self, options: CompareOptions) -> Self {
        self.options = options;
        self
    }

    /// Reports which tensors [`Self::run`] would compare. Reads only headers.
    pub fn plan(&self) -> Result<ComparePlan> {
        let (a, b) = (self.a.in_ldm_names(), self.b.in_ldm_names());
        let (pairs, not_compared) = self.pairs(&a, &b)?;
        let mut plan = ComparePlan { not_compared, ..ComparePlan::default() };
        for (key, a, b) in pairs {
            let list = match (a, b) {
                (Some(a), Some(b)) if a.shape() == b.shape() => &mut plan.compared,
                (Some(_), Some(_)) => &mut plan.reshaped,
                (Some(_), None) => &mut plan.only_in_a,
                (None, _) => &mut plan.only_in_b,
            };
            list.push(key);
        }
        Ok(plan)
    }

    /// Reads both checkpoints and compares them.
    pub fn run(&self) -> Result<Difference> {
        check_jobs(self.jobs)?;
        let (a, b) = (self.a.in_ldm_names(), self.b.in_ldm_names());
        let (mut pairs, not_compared) = self.pairs(&a, &b)?;
        let values = |of: &Checkpoint, other: &Checkpoint| {
            let found = ByValue::new(of.state_dict(), of.metadata(), other.state_dict());
            found.map_err(|error| error.in_file(of.path()))
        };
        let (of_a, of_b) = (values(&a, &b)?, values(&b, &a)?);
        pairs.retain(|(key, _, _)| !of_a.is_included(key) && !of_b.is_included(key));
        self.progress.begin("comparing", a.state_dict().bytes());
        let mut compared = parallel::map(
            self.jobs,
            &pairs,
            || (),
            |(), (key, a, b)| {
                let found = match (a, b) {
                    (Some(a), Some(b)) => {
                        let values = (of_a.get(key), of_b.get(key));
                        let (a, b) = (values.0.unwrap_or(a), values.1.unwrap_or(b));
                        let found = read_both(a, b, self.options.measured, self.progress);
                        let mut found = found.map_err(|error| error.in_tensor(key.as_str()))?;
                        if found.comparison == TensorComparison::Equal && values.0.or(values.1).is_some() {
                            found.comparison = TensorComparison::SameValues;
                        }
                        Some(found)
                    }
                    _ => None,
                };
                Ok(ComparedTensors { key: key.clone(), a: *a, b: *b, found })
            },
        )?;
        let mut non_finite = NonFiniteSides::default();
        let is_dtype_ignored = self.options.ignores(Ignored::Dtype);
        for ComparedTensors { key, found, .. } in &mut compared {
            let Some(found) = found else { continue };
            let [of_a, of_b] = found.non_finite;
            non_finite.a.extend(NonFiniteTensor::new(key, of_a));
            non_finite.b.extend(NonFiniteTensor::new(key, of_b));
            if is_dtype_ignored && found.comparison == TensorComparison::SameValues {
                found.comparison = TensorComparison::Equal;
            }
        }
        let name = |checkpoint: &Checkpoint| checkpoint.path().to_string_lossy().into_owned();
        let mut difference = Difference::new(name(self.a), name(self.b), compared, not_compared, non_finite);
        if !self.options.ignores(Ignored::Metadata) {
            difference.metadata = metadata(&a, &b);
        }
        Ok(difference)
    }

    /// The pairs to compare, and the number of tensors left out because a folder, or a file in the names of diffusers, does
    /// not hold them.
    fn pairs<'c>(&self, a: &'c Checkpoint, b: &'c Checkpoint) -> Result<(Vec<KeyPair<'c>>, usize)> {
        self.a.refuse_unreadable()?;
        self.b.refuse_unreadable()?;
        if self.a.has_ldm_names() != self.b.has_ldm_names() {
            self.a.require_ldm_names()?;
            self.b.require_ldm_names()?;
        }
        let canonical = |key: &str| vae::canonical_key(key).into_owned();
        let mut pairs = pair_up(a.state_dict(), b.state_dict(), canonical);
        let is_folder = |checkpoint: &Checkpoint| {
            checkpoint.container() == Container::Diffusers || checkpoint.translation().is_from_diffusers()
        };
        pairs.retain(|(key, _, _)| self.options.includes(Component::from_key(key)));
        let before = pairs.len();
        if is_folder(a) != is_folder(b) {
            pairs.retain(|(key, a, b)| a.is_some() == b.is_some() || folders::has_place(key));
        }
        let not_compared = before - pairs.len();
        Ok((pairs, not_compared))
    }
}

/// The names of the metadata that only one side has, or both with other values.
fn metadata(a: &Checkpoint, b: &Checkpoint) -> Vec<String> {
    let text = |of: &Checkpoint, name: &str| of.metadata().get(name).map(|value| value.to_text());
    let names: BTreeSet<&String> = a.metadata().keys().chain(b.metadata().keys()).collect();
    names.into_iter().filter(|name| text(a, name) != text(b, name)).cloned().collect()
}
