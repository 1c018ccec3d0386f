//! The account of a plan: what happens to each tensor of each input.

use indexmap::IndexMap;
use serde::Serialize;

use crate::Component;
use trinart_ckpt_formats::tensor::Dtype;

/// The input that a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// The checkpoint.
    Checkpoint,
    /// The VAE that is merged into the checkpoint.
    Vae,
    /// The file of the UNet that replaces the checkpoint's.
    Unet,
    /// The file of the text encoder that replaces the checkpoint's.
    TextEncoder,
    /// The file of the second text encoder that replaces the checkpoint's.
    #[serde(rename = "text-encoder-2")]
    TextEncoder2,
    /// The file of the image encoder that replaces the checkpoint's.
    ImageEncoder,
    /// No input: a constant that this program adds.
    Program,
}

impl Origin {
    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Origin::Checkpoint => "checkpoint",
            Origin::Vae => "VAE",
            Origin::Unet => "UNet",
            Origin::TextEncoder => "text encoder",
            Origin::TextEncoder2 => "text encoder 2",
            Origin::ImageEncoder => "image encoder",
            Origin::Program => "program",
        }
    }
}

/// A change to a tensor between input and output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "change", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// The key differs.
    Renamed,
    /// The tensor replaces one of another input.
    Replaces,
    /// Trailing dimensions of size 1 were added or removed: a 1x1 convolution became a linear layer or the reverse.
    Reshaped,
    /// The matrix was transposed.
    Transposed,
    /// The tensor was joined with others.
    Joined,
    /// The tensor was split by rows.
    Split,
    /// The tensor was added where there was none.
    Inserted,
    /// Wrong values or a wrong dtype were corrected.
    Fixed,
    /// The values of a quantized weight were computed.
    Dequantized {
        /// The dtype of the quantized weight.
        from: Dtype,
        /// The dtype of the output.
        to: Dtype,
    },
    /// The elements were cast to another dtype.
    Cast {
        /// The dtype of the input.
        from: Dtype,
        /// The dtype of the output.
        to: Dtype,
    },
}

impl Change {
    /// A cast between two dtypes.
    pub(crate) fn cast(from: Dtype, to: Dtype) -> Self {
        Change::Cast { from, to }
    }

    /// The change in a word or two.
    pub fn text(&self) -> String {
        match self {
            Change::Renamed => "renamed".into(),
            Change::Replaces => "replacing".into(),
            Change::Reshaped => "reshaped".into(),
            Change::Transposed => "transposed".into(),
            Change::Joined => "joined".into(),
            Change::Split => "split".into(),
            Change::Inserted => "inserted".into(),
            Change::Fixed => "fixed".into(),
            Change::Dequantized { from, to } => format!("dequantized {from} to {to}"),
            Change::Cast { from, to } => format!("cast {from} to {to}"),
        }
    }
}

/// What it means that a tensor is not in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// The user asked for it.
    Asked,
    /// Nothing that uses the model needs the tensor, or the output has its values elsewhere.
    Harmless,
    /// It may matter.
    Lost,
}

/// Why a key is not in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// A training loss in a VAE file.
    TrainingLoss,
    /// A moving average in a VAE file.
    TrainingAverage,
    /// A tensor in a VAE file that is not part of the VAE.
    NotVae,
    /// A tensor under the prefix of the VAE that no Stable Diffusion VAE has.
    NotInSchema,
    /// A tensor of the checkpoint's old VAE that no VAE has, or that repeats another one.
    OldVae,
    /// A tensor that is in the output under its right name already.
    Duplicate,
    /// A tensor of a file that is not part of the component that the file is given for.
    NotInPart,
    /// A tensor of the component that was replaced, which the new one does not have.
    OldPart,
    /// The EMA of a UNet that was replaced.
    EmaOfReplaced,
    /// EMA weights, dropped on request.
    Ema,
    /// A counter of the EMA.
    EmaCounter,
    /// EMA weights without a tensor to replace.
    EmaUnmatched,
    /// A tensor that was left out by its name.
    NotSelected,
    /// A tensor of another component than the requested one.
    OtherComponent,
    /// A tensor of a component that inference does not need.
    Pruned(Component),
    /// The constant position_ids of a text encoder, which the output format does not store.
    RedundantConstant,
    /// EMA weights, which folders do not hold.
    EmaNotInFolders,
    /// A buffer of the noise schedule, which the scheduler of a folder computes.
    ScheduleNotInFolders,
    /// Training residue, which folders do not hold.
    ResidueNotInFolders,
    /// A tensor of a text encoder that rendering does not use.
    UnusedByTextEncoder,
    /// A part of one of the two autoencoders of a video model, which has the encoder of one and the decoder of the other in
    /// a folder.
    SecondAutoencoder,
    /// A mark of what the UNet predicts, which the folder's configuration records.
    RecordedInFolder,
    /// The alpha of a change of a LoRA, which the configuration of the output records.
    RecordedInConfig,
    /// A mark of what the UNet predicts that contradicts the requested prediction.
    Superseded,
    /// A tensor that folders have no place for.
    NotInFolders,
    /// A scale, a table or a description of quantized weights that were dequantized.
    Dequantized,
}

impl DropReason {
    /// What it means that the tensor is not in the output.
    pub fn loss(self) -> Loss {
        match self {
            DropReason::NotVae
            | DropReason::NotInSchema
            | DropReason::OldVae
            | DropReason::Duplicate
            | DropReason::NotInPart
            | DropReason::OldPart
            | DropReason::EmaOfReplaced
            | DropReason::Superseded
            | DropReason::Ema
            | DropReason::EmaCounter
            | DropReason::NotSelected
            | DropReason::OtherComponent
            | DropReason::Pruned(_) => Loss::Asked,
            DropReason::TrainingLoss
            | DropReason::TrainingAverage
            | DropReason::RedundantConstant
            | DropReason::EmaNotInFolders
            | DropReason::ScheduleNotInFolders
            | DropReason::ResidueNotInFolders
            | DropReason::UnusedByTextEncoder
            | DropReason::SecondAutoencoder
            | DropReason::RecordedInFolder
            | DropReason::RecordedInConfig
            | DropReason::Dequantized => Loss::Harmless,
            DropReason::EmaUnmatched | DropReason::NotInFolders => Loss::Lost,
        }
    }

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::TrainingLoss => "training-loss",
            DropReason::TrainingAverage => "training-average",
            DropReason::NotVae => "not-vae",
            DropReason::NotInSchema => "not-in-schema",
            DropReason::OldVae => "old-vae",
            DropReason::Duplicate => "duplicate",
            DropReason::NotInPart => "not-in-part",
            DropReason::OldPart => "old-part",
            DropReason::EmaOfReplaced => "ema-of-replaced",
            DropReason::Ema => "ema",
            DropReason::EmaCounter => "ema-counter",
            DropReason::EmaUnmatched => "ema-unmatched",
            DropReason::NotSelected => "not-selected",
            DropReason::OtherComponent => "other-component",
            DropReason::Pruned(_) => "pruned",
            DropReason::RedundantConstant => "redundant-constant",
            DropReason::EmaNotInFolders => "ema-not-in-folders",
            DropReason::ScheduleNotInFolders => "schedule-not-in-folders",
            DropReason::ResidueNotInFolders => "residue-not-in-folders",
            DropReason::UnusedByTextEncoder => "unused-by-text-encoder",
            DropReason::SecondAutoencoder => "second-autoencoder",
            DropReason::RecordedInFolder => "recorded-in-folder",
            DropReason::RecordedInConfig => "recorded-in-config",
            DropReason::Superseded => "superseded",
            DropReason::NotInFolders => "not-in-folders",
            DropReason::Dequantized => "dequantized",
        }
    }

    /// The reason in words.
    pub fn text(self) -> String {
        let text = match self {
            DropReason::TrainingLoss => "training loss",
            DropReason::TrainingAverage => "training average",
            DropReason::NotVae => "not part of a VAE",
            DropReason::NotInSchema => "a Stable Diffusion VAE has no such tensor",
            DropReason::OldVae => "unusable part of the old VAE",
            DropReason::Duplicate => "the same tensor is in the output under its right name",
            DropReason::NotInPart => "not part of the component to use",
            DropReason::OldPart => "part of the replaced component only",
            DropReason::EmaOfReplaced => "EMA of the replaced UNet",
            DropReason::Ema => "EMA weights",
            DropReason::EmaCounter => "EMA counter",
            DropReason::EmaUnmatched => "EMA of no tensor in the file",
            DropReason::NotSelected => "not selected",
            DropReason::OtherComponent => "another component",
            DropReason::Pruned(component) => return format!("pruned: {}", component.text()),
            DropReason::RedundantConstant => "redundant constant (position_ids)",
            DropReason::EmaNotInFolders => "EMA weights; folders do not hold them",
            DropReason::ScheduleNotInFolders => "schedule buffer; the folder's scheduler computes it",
            DropReason::ResidueNotInFolders => "training residue; folders do not hold it",
            DropReason::UnusedByTextEncoder => "unused by rendering; folders do not hold it",
            DropReason::SecondAutoencoder => "part of a second autoencoder; a folder has one",
            DropReason::RecordedInFolder => "mark of the prediction; the folder's configuration records it",
            DropReason::RecordedInConfig => "alpha of a LoRA; the configuration of the output records it",
            DropReason::Superseded => "mark of another prediction than the requested one",
            DropReason::NotInFolders => "folders have no place for it",
            DropReason::Dequantized => "part of quantized weights; not needed any more",
        };
        text.to_owned()
    }
}

/// What happened to a key of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Disposition {
    /// The tensor is in the output.
    Written {
        /// The key in the output.
        key: String,
        /// The changes; empty if the tensor is bit-identical.
        changes: Vec<Change>,
    },
    /// The tensor is in the output in parts.
    Split {
        /// The keys in the output, in the order of the rows.
        keys: Vec<String>,
        /// The changes.
        changes: Vec<Change>,
    },
    /// A tensor of another input is in the output in its place.
    Replaced,
    /// The tensor is not in the output.
    Dropped {
        /// Why.
        reason: DropReason,
    },
}

/// One key of one input, and its disposition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LedgerLine {
    /// The input.
    pub from: Origin,
    /// The key in the input.
    pub input: String,
    /// What happened to it.
    #[serde(flatten)]
    pub disposition: Disposition,
}

impl LedgerLine {
    /// The keys in the output: several if the tensor is in it in parts, and none if it is not in it.
    pub fn outputs(&self) -> &[String] {
        match &self.disposition {
            Disposition::Written { key, .. } => std::slice::from_ref(key),
            Disposition::Split { keys, .. } => keys,
            Disposition::Replaced | Disposition::Dropped { .. } => &[],
        }
    }
}

/// The account of a plan: exactly one line per key of each input, exactly one origin per key of the output.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Ledger {
    lines: Vec<LedgerLine>,
}

impl Ledger {
    /// Records a key that is in the output.
    pub(crate) fn written(&mut self, from: Origin, input: &str, key: &str, changes: Vec<Change>) {
        self.push(from, input, Disposition::Written { key: key.to_owned(), changes });
    }

    /// Records a key that a tensor of another input replaces.
    pub(crate) fn replaced(&mut self, from: Origin, input: &str) {
        self.push(from, input, Disposition::Replaced);
    }

    /// Records a key that is not in the output.
    pub(crate) fn dropped(&mut self, from: Origin, input: &str, reason: DropReason) {
        self.push(from, input, Disposition::Dropped { reason });
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: LedgerLine) {
        self.lines.push(line);
    }

    fn push(&mut self, from: Origin, input: &str, disposition: Disposition) {
        self.lines.push(LedgerLine { from, input: input.to_owned(), disposition });
    }

    /// Replaces each line by the lines that `rewrite` returns.
    pub(crate) fn rewrite(&mut self, rewrite: impl Fn(LedgerLine) -> Vec<LedgerLine>) {
        self.lines = std::mem::take(&mut self.lines).into_iter().flat_map(rewrite).collect();
    }

    /// All lines, in the order of the inputs.
    pub fn lines(&self) -> &[LedgerLine] {
        &self.lines
    }

    /// Returns the line of the input tensor that a tensor of the output comes from; the first one if it was joined from
    /// several.
    pub fn input_of(&self, output: &str) -> Option<&LedgerLine> {
        self.lines.iter().find(|line| line.outputs().iter().any(|key| key == output))
    }

    /// Counts the keys of each input by disposition in words, in the order of first occurrence.
    pub fn summary(&self) -> Vec<(Origin, String, usize)> {
        let mut counts: IndexMap<(Origin, String), usize> = IndexMap::new();
        for line in &self.lines {
            let text = match &line.disposition {
                Disposition::Written { changes, .. } if changes.is_empty() => "kept".into(),
                Disposition::Written { changes, .. } | Disposition::Split { changes, .. } => {
                    changes.iter().map(Change::text).collect::<Vec<_>>().join(", ")
                }
                Disposition::Replaced => "replaced".into(),
                Disposition::Dropped { reason } => format!("left out: {}", reason.text()),
            };
            *counts.entry((line.from, text)).or_default() += 1;
        }
        counts.into_iter().map(|((from, text), count)| (from, text, count)).collect()
    }
}
