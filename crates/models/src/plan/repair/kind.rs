use serde::Serialize;

/// A kind of defect that a repair removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RepairKind {
    /// A prefix that programs do not look for: `module.`, `model.model.`, `clip_l.`, `conditioner.` in SD v1.
    Prefix,
    /// Keys of a UNet in the names of another layout.
    UnetNames,
    /// Keys of a VAE in the names of another layout or in mixed ones, such as `mid.attn_1.to_q`.
    VaeNames,
    /// Keys of a text encoder in the names of another layout, such as those of NovelAI, without `text_model.`.
    TextEncoderNames,
    /// Dimensions of size 1 that are missing or superfluous.
    Ranks,
    /// Weights in F64.
    Dtype,
    /// position_ids that are wrong, not I64, or missing.
    PositionIds,
    /// position_ids where no text encoder has any.
    StrayPositionIds,
    /// Tensors that occur under two names.
    Duplicate,
    /// A `state_dict` without tensors of its own inside the state dict, as in NovelAI's files.
    InnerStateDict,
    /// Bytes behind the content of the file.
    TrailingBytes,
}

impl RepairKind {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            RepairKind::Prefix => "prefix",
            RepairKind::UnetNames => "unet-names",
            RepairKind::VaeNames => "vae-names",
            RepairKind::TextEncoderNames => "text-encoder-names",
            RepairKind::Ranks => "ranks",
            RepairKind::Dtype => "dtype",
            RepairKind::PositionIds => "position-ids",
            RepairKind::StrayPositionIds => "stray-position-ids",
            RepairKind::Duplicate => "duplicate",
            RepairKind::InnerStateDict => "inner-state-dict",
            RepairKind::TrailingBytes => "trailing-bytes",
        }
    }

    /// Whether it is a defect of the file itself, not of tensors.
    pub fn is_of_file(self) -> bool {
        matches!(self, RepairKind::InnerStateDict | RepairKind::TrailingBytes)
    }

    /// What is repaired, for people.
    pub fn text(self) -> &'static str {
        match self {
            RepairKind::Prefix => "prefix",
            RepairKind::UnetNames => "names of the UNet",
            RepairKind::VaeNames => "names of the VAE",
            RepairKind::TextEncoderNames => "names of the text encoder",
            RepairKind::Ranks => "dimensions",
            RepairKind::Dtype => "dtype",
            RepairKind::PositionIds => "position_ids",
            RepairKind::StrayPositionIds => "stray position_ids",
            RepairKind::Duplicate => "duplicates",
            RepairKind::InnerStateDict => "inner state dict",
            RepairKind::TrailingBytes => "trailing bytes",
        }
    }
}

/// One repair: a defect of some tensors, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Repair {
    /// The kind of defect.
    pub kind: RepairKind,
    /// The keys of the tensors in the file; empty for a defect of the file itself.
    pub keys: Vec<String>,
    /// The state before.
    pub before: String,
    /// The state after.
    pub after: String,
}

impl Repair {
    /// `prefix, 197 tensors: clip_l. -> cond_stage_model.`
    pub fn to_text(&self) -> String {
        let keys = match self.keys.as_slice() {
            [] => String::new(),
            [only] if *only == self.before => String::new(),
            [only] => format!(", {only}"),
            several => format!(", {} tensors", several.len()),
        };
        let is_first = self.keys.len() > 1 && self.keys.first() == Some(&self.before);
        let more = if is_first { ", …" } else { "" };
        format!("{}{keys}: {} -> {}{more}", self.kind.text(), self.before, self.after)
    }
}

/// Collects repairs, and joins those of the same kind from and to the same state.
#[derive(Debug, Default)]
pub(super) struct Repairs(pub(super) Vec<Repair>);

impl Repairs {
    /// Adds a repair of a tensor.
    pub(super) fn add(&mut self, kind: RepairKind, key: &str, before: &str, after: &str) {
        let same = |it: &&mut Repair| it.kind == kind && it.before == before && it.after == after;
        match self.0.iter_mut().find(same) {
            Some(repair) => repair.keys.push(key.to_owned()),
            None => self.0.push(Repair {
                kind,
                keys: vec![key.to_owned()],
                before: before.to_owned(),
                after: after.to_owned(),
            }),
        }
    }

    /// Adds a repair of a key. Names that change in many ways share the line of their kind, which shows the first.
    pub(super) fn rename(&mut self, kind: RepairKind, key: &str, place: &str) {
        if let Some(repair) = self.0.iter_mut().find(|repair| repair.kind == kind) {
            repair.keys.push(key.to_owned());
            return;
        }
        self.add(kind, key, key, place);
    }
}
