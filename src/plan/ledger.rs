use std::collections::BTreeMap;

use serde::Serialize;

use crate::tensor::Dtype;

/// Which input a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The checkpoint.
    Checkpoint,
    /// The autoencoder merged into it.
    Autoencoder,
    /// No input: this program, which knows the constant.
    Program,
}

impl Origin {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Checkpoint => "checkpoint",
            Origin::Autoencoder => "autoencoder",
            Origin::Program => "program",
        }
    }
}

/// Something done to a tensor on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// It got another key.
    Renamed,
    /// It takes the place of another input's tensor.
    Replaces,
    /// Its shape got or lost ones: a convolution of size 1 for a linear layer, or the other way round.
    Reshaped,
    /// Its rows became columns.
    Transposed,
    /// It was joined with others.
    Joined,
    /// Its rows went to several tensors.
    Split,
    /// It was added where there was none.
    Inserted,
    /// Its broken numbers were replaced by the right ones.
    Fixed,
    /// Its elements got another type.
    Cast {
        /// The type it had.
        from: &'static str,
        /// The type it gets.
        to: &'static str,
    },
}

impl Change {
    /// A cast between two types.
    pub fn cast(from: Dtype, to: Dtype) -> Self {
        Change::Cast { from: from.name(), to: to.name() }
    }

    /// It in a word or two.
    pub fn word(&self) -> String {
        match self {
            Change::Renamed => "renamed".into(),
            Change::Replaces => "replacing".into(),
            Change::Reshaped => "reshaped".into(),
            Change::Transposed => "transposed".into(),
            Change::Joined => "joined".into(),
            Change::Split => "split".into(),
            Change::Inserted => "inserted".into(),
            Change::Fixed => "fixed".into(),
            Change::Cast { from, to } => format!("cast {from} to {to}"),
        }
    }
}

/// What became of an input's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is in the output.
    Written {
        /// Under this key.
        key: String,
        /// After these changes; none means bit for bit as it was.
        changes: Vec<Change>,
    },
    /// It is in the output in parts.
    Split {
        /// Under these keys, its rows in their order.
        keys: Vec<String>,
        /// After these changes.
        changes: Vec<Change>,
    },
    /// Another input's tensor is in the output in its place.
    Replaced,
    /// It is not in the output.
    Dropped {
        /// Why.
        reason: String,
    },
}

/// One key of one input, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The input.
    pub from: Origin,
    /// The key.
    pub input: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The account of a plan: every key of every input has exactly one line, every key of the output exactly one origin.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Ledger {
    lines: Vec<Line>,
}

impl Ledger {
    /// Notes a key that is in the output.
    pub fn written(&mut self, from: Origin, input: &str, key: &str, changes: Vec<Change>) {
        self.push(from, input, Outcome::Written { key: key.to_owned(), changes });
    }

    /// Notes a key whose place another tensor took.
    pub fn replaced(&mut self, from: Origin, input: &str) {
        self.push(from, input, Outcome::Replaced);
    }

    /// Notes a key that is not in the output.
    pub fn dropped(&mut self, from: Origin, input: &str, reason: impl Into<String>) {
        self.push(from, input, Outcome::Dropped { reason: reason.into() });
    }

    fn push(&mut self, from: Origin, input: &str, outcome: Outcome) {
        self.lines.push(Line { from, input: input.to_owned(), outcome });
    }

    /// Puts other lines in the place of each.
    pub(super) fn rewrite(&mut self, rewrite: impl Fn(Line) -> Vec<Line>) {
        self.lines = std::mem::take(&mut self.lines).into_iter().flat_map(rewrite).collect();
    }

    /// All lines, in the order of the inputs.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many keys had each fate, in words: `(input, fate, count)`, in the order of their first mention.
    pub fn summary(&self) -> Vec<(Origin, String, usize)> {
        let mut order = Vec::new();
        let mut counts: BTreeMap<(Origin, String), usize> = BTreeMap::new();
        for line in &self.lines {
            let fate = match &line.outcome {
                Outcome::Written { changes, .. } if changes.is_empty() => "kept".into(),
                Outcome::Written { changes, .. } | Outcome::Split { changes, .. } => {
                    changes.iter().map(Change::word).collect::<Vec<_>>().join(", ")
                }
                Outcome::Replaced => "replaced".into(),
                Outcome::Dropped { reason } => format!("left out: {reason}"),
            };
            let key = (line.from, fate);
            let count = counts.entry(key.clone()).or_default();
            if *count == 0 {
                order.push(key);
            }
            *count += 1;
        }
        let counted = order.into_iter().map(|key| {
            let count = counts.get(&key).copied().unwrap_or_default();
            (key.0, key.1, count)
        });
        counted.collect()
    }
}
