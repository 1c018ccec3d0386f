use serde::{Deserialize, Serialize};

/// Defines the codes of findings: the variant, the word, a title for people, and the documentation.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $word:literal $title:literal,)*) => {
        /// What is wrong with a file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub enum FindingCode {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl FindingCode {
            /// All codes, the worst first.
            pub const ALL: &'static [FindingCode] = &[$(FindingCode::$variant),*];

            /// The word for scripts, and for `--select` and `--ignore`.
            pub fn name(self) -> &'static str {
                match self {
                    $(FindingCode::$variant => $word,)*
                }
            }

            /// The title for people.
            pub fn text(self) -> &'static str {
                match self {
                    $(FindingCode::$variant => $title,)*
                }
            }
        }
    };
}

codes! {
    /// A pickle would run commands, import code, or read, write or fetch files.
    DangerousPickle "dangerous-pickle" "dangerous pickle",
    /// A pickle uses a name that is not vouched for, or could not be scanned completely.
    UnknownPickle "unknown-pickle" "unknown pickle",
    /// The file is damaged, cut short, or something else than its name says.
    Damaged "damaged" "damaged or no checkpoint",
    /// The authors have withdrawn the file.
    Withdrawn "withdrawn" "withdrawn by its authors",
    /// Tensors have NaN or infinite values.
    NonFinite "non-finite" "NaN or infinite values",
    /// Weights are all zero.
    AllZero "all-zero" "weights that are all zero",
    /// The VAE lacks tensors, or has shapes that no VAE has.
    BrokenVae "broken-vae" "broken VAE",
    /// The checkpoint has no VAE, and none lies beside it.
    NoVae "no-vae" "no VAE",
    /// The text encoder is missing, or it or the UNet lacks tensors.
    Incomplete "incomplete" "missing tensors",
    /// Names, prefixes or dimensions keep programs from loading the file.
    Defect "defect" "defect that a repair removes",
    /// The keys are those of two kinds of files.
    Contradiction "contradiction" "keys of two kinds of files",
    /// What the UNet predicts is recorded in two ways that contradict each other.
    MarksContradict "marks-contradict" "contradicting marks",
    /// position_ids are wrong, or not I64.
    PositionIds "position-ids" "wrong position_ids",
    /// The extension means another format than the content is.
    WrongExtension "wrong-extension" "wrong extension",
    /// The file is of another kind than the folder is for.
    WrongFolder "wrong-folder" "wrong folder",
    /// Another file has the same content, perhaps in another container or dtype.
    Duplicate "duplicate" "duplicate",
    /// The file has EMA weights that inference does not need.
    Ema "ema" "EMA weights to prune",
    /// The file has tensors that only training needs.
    Residue "residue" "training residue to prune",
    /// A file beside a checkpoint describes another version of it.
    StaleSidecar "stale-sidecar" "stale sidecar",
    /// A file belongs to a checkpoint that is not there.
    OrphanedSidecar "orphaned-sidecar" "orphaned sidecar",
    /// A download or a run that was killed left the file behind.
    Leftover "leftover" "leftover of a killed run",
}

/// What removes a finding. The file is the one of the finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Remedy {
    /// Write a copy with the tensors only.
    Sanitize(String),
    /// Look at what the pickles name.
    Scan,
    /// Merge a VAE into a copy.
    MergeVae(String),
    /// Write a repaired copy.
    Repair(String),
    /// Correct the position_ids in the file itself.
    FixPositionIds,
    /// Write a pruned copy.
    Prune(String),
    /// Move the file.
    Move(String),
    /// Delete the file.
    Delete,
    /// Compare the file with another.
    Compare(String),
    /// List what is in the file.
    Inspect,
}

/// One finding of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditFinding {
    /// The file.
    pub file: String,
    /// What is wrong.
    pub code: FindingCode,
    /// What was found, as a sentence without a stop.
    pub text: String,
    /// Bytes that the remedy saves.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub saves: Option<u64>,
    /// What removes the finding, if a command does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<Remedy>,
    /// The command that removes the finding, in the words of the program; see [`AuditReport::with_commands`].
    ///
    /// [`AuditReport::with_commands`]: crate::report::AuditReport::with_commands
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

impl AuditFinding {
    /// Returns a finding without a remedy.
    pub(crate) fn new(file: impl Into<String>, code: FindingCode, text: impl Into<String>) -> Self {
        AuditFinding { file: file.into(), code, text: text.into(), saves: None, remedy: None, command: None }
    }

    pub(crate) fn with(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    pub(crate) fn saving(mut self, bytes: u64) -> Self {
        self.saves = Some(bytes);
        self
    }
}
