use super::jobs::check_jobs;
use crate::report::Difference;
use trinart_ckpt_formats::Result;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_models::compare::{KeyPair, TensorComparison, compare, pair_up};
use trinart_ckpt_models::plan::folders;
use trinart_ckpt_models::quantization::ByValue;
use trinart_ckpt_models::{Checkpoint, vae};

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

impl<'a> Compare<'a> {
    /// Returns a comparison of two opened checkpoints.
    pub fn new(a: &'a Checkpoint, b: &'a Checkpoint) -> Self {
        Compare { a, b, jobs: parallel::default_jobs(), progress: &NoProgress }
    }

    /// Sets the number of threads, at least 1. By default two per CPU, at most eight.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Reports progress to `progress`, which may also interrupt the work.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Reports which tensors [`Self::run`] would compare. Reads only headers.
    pub fn plan(&self) -> Result<ComparePlan> {
        let (pairs, not_compared) = self.pairs()?;
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
        let (mut pairs, not_compared) = self.pairs()?;
        let values = |of: &Checkpoint, other: &Checkpoint| {
            let found = ByValue::new(of.state_dict(), of.metadata(), other.state_dict());
            found.map_err(|error| error.in_file(of.path()))
        };
        let (of_a, of_b) = (values(self.a, self.b)?, values(self.b, self.a)?);
        pairs.retain(|(key, _, _)| !of_a.is_included(key) && !of_b.is_included(key));
        self.progress.begin("comparing", self.a.state_dict().bytes());
        let compared = parallel::map(
            self.jobs,
            &pairs,
            || (),
            |(), (key, a, b)| {
                let comparison = match (a, b) {
                    (Some(a), Some(b)) => {
                        let values = (of_a.get(key), of_b.get(key));
                        let found = compare(values.0.unwrap_or(a), values.1.unwrap_or(b), self.progress);
                        Some(match found.map_err(|error| error.in_tensor(key.as_str()))? {
                            TensorComparison::Equal if values.0.or(values.1).is_some() => TensorComparison::SameValues,
                            found => found,
                        })
                    }
                    _ => None,
                };
                Ok((key.clone(), *a, *b, comparison))
            },
        )?;
        let name = |checkpoint: &Checkpoint| checkpoint.path().to_string_lossy().into_owned();
        Ok(Difference::new(name(self.a), name(self.b), compared, not_compared))
    }

    /// The pairs to compare, and the number of tensors left out because a folder cannot hold them.
    fn pairs(&self) -> Result<(Vec<KeyPair<'a>>, usize)> {
        self.a.refuse_unreadable()?;
        self.b.refuse_unreadable()?;
        let canonical = |key: &str| vae::canonical_key(key).into_owned();
        let mut pairs = pair_up(self.a.state_dict(), self.b.state_dict(), canonical);
        let is_folder = |checkpoint: &Checkpoint| checkpoint.container() == Container::Diffusers;
        let before = pairs.len();
        if is_folder(self.a) != is_folder(self.b) {
            pairs.retain(|(key, a, b)| a.is_some() == b.is_some() || folders::has_place(key));
        }
        let not_compared = before - pairs.len();
        Ok((pairs, not_compared))
    }
}
