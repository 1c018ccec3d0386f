//! Plans new names for the tensors of a LoRA: those of kohya's trainer, diffusers or PEFT.
//!
//! Values do not change. Alpha is a tensor in kohya's names, and a number in the configurations of diffusers and PEFT.

mod adapter;
mod form;

use std::cmp::Reverse;

use serde_json::{Map, Value};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_formats::tensor::{LazyTensor, Shape};

use crate::checkpoint::Checkpoint;
use crate::layout::Folder;
use crate::ledger::{Change as Changed, DropReason, Origin};
use crate::lora::{
    self, ADAPTER_METADATA, BARE, CONFIG, DORA_SCALE, Lora, LoraNames, MAGNITUDE, NETWORK, RECORD, Spelling, TEXT_MODEL,
};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Account, Draft, Resolved};

/// A LoRA with other names.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Named {
    /// The plan. Another plan for [`Self::checkpoint`] can follow it; see [`Resolved::then`].
    pub resolved: Resolved,
    /// The output as a checkpoint.
    pub checkpoint: Checkpoint,
    /// The text of the `adapter_config.json` that PEFT needs beside the output.
    pub config: Option<String>,
    /// Whether the scale of the changes is in the metadata, which only safetensors files have.
    pub needs_metadata: bool,
}

/// Plans the names of a LoRA for SD v1, SD v2 or SDXL. A file that has these names already stays as it is.
///
/// Fails for files of other kinds, for modules that no such model has, and for kinds of changes that the names cannot
/// express.
pub fn plan(checkpoint: &Checkpoint, names: LoraNames) -> Result<Named> {
    rename(checkpoint, names).map_err(|error| error.in_file(checkpoint.path()))
}

fn rename(checkpoint: &Checkpoint, names: LoraNames) -> Result<Named> {
    checkpoint.refuse_unreadable()?;
    let lora = Lora::read(checkpoint)?;
    let mut output = Output { lora: &lora, names, tensors: Vec::new(), draft: Draft::default() };
    output.draft.metadata = checkpoint.metadata().clone();
    if lora.lacks_config {
        let text = format!("assumed that alpha is the rank: {} is missing beside the file", lora::ADAPTER_CONFIG);
        output.draft.notices.push(Notice::new(NoticeCode::LoraScaleAssumed, text));
    }
    let mut config = lora.config.clone().filter(|_| names == LoraNames::Peft);
    let mut needs_metadata = false;
    if lora.names == Some(names) {
        for (key, tensor) in checkpoint.state_dict().iter() {
            output.draft.state_dict.insert(key, tensor.clone())?;
            output.draft.ledger.written(Origin::Checkpoint, key, key, Vec::new());
        }
    } else {
        let (written, has_scales) = output.run()?;
        config = written;
        needs_metadata = has_scales;
    }
    let draft = output.draft;
    let resolved = draft.check(&Account::default().input(Origin::Checkpoint, checkpoint))?;
    let checkpoint = checkpoint.with_tensors(resolved.state_dict.clone(), resolved.metadata.clone());
    Ok(Named { resolved, checkpoint, config, needs_metadata })
}

/// A tensor of the output: its key, its source with its changes, and the tensor.
struct Tensor<'a> {
    key: String,
    source: Option<&'a str>,
    changes: Vec<Changed>,
    tensor: LazyTensor,
}

struct Output<'a> {
    lora: &'a Lora<'a>,
    names: LoraNames,
    tensors: Vec<Tensor<'a>>,
    draft: Draft,
}

impl<'a> Output<'a> {
    /// Plans all tensors and the metadata. Returns the configuration for PEFT, and whether the metadata has scales.
    fn run(&mut self) -> Result<(Option<String>, bool)> {
        let networks = self.networks();
        if let (LoraNames::Peft, [first, second, ..]) = (self.names, networks.as_slice()) {
            let found =
                format!("changes {} and {}, and a PEFT adapter is for one network", first.name(), second.name());
            let remedy = "take one with --select, such as 'lora_unet_*' or 'text_encoder.*'";
            return Err(Error::unsupported(format!("{found}: {remedy}")));
        }
        for change in &self.lora.changes {
            self.add(change)?;
        }
        // As the safetensors library orders them.
        self.tensors.sort_by(|a, b| {
            (Reverse(a.tensor.dtype().size()), &a.key).cmp(&(Reverse(b.tensor.dtype().size()), &b.key))
        });
        for Tensor { key, source, changes, tensor } in std::mem::take(&mut self.tensors) {
            self.draft.state_dict.insert(key.as_str(), tensor)?;
            match source {
                Some(source) => self.draft.ledger.written(Origin::Checkpoint, source, &key, changes),
                None => self.draft.ledger.written(Origin::Program, &key, &key, vec![Changed::Inserted]),
            }
        }
        self.describe(&networks)
    }

    fn networks(&self) -> Vec<Folder> {
        let mut networks: Vec<Folder> = self.lora.changes.iter().map(|change| change.module.network).collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }

    /// Plans the tensors of a change.
    fn add(&mut self, change: &lora::Change<'a>) -> Result<()> {
        let module = &change.module;
        let bare = module.name.strip_prefix(TEXT_MODEL).filter(|_| self.lora.bare.contains(&module.network));
        let name = bare.unwrap_or(&module.name);
        let stem = match self.names {
            LoraNames::Kohya => self.lora.modules.kohya(module, self.spelling()),
            LoraNames::Diffusers => format!("{}.{name}", module.network.name()),
            LoraNames::Peft => format!("base_model.model.{name}"),
        };
        for (name, part) in &change.parts {
            let (name, tensor) = match self.names {
                LoraNames::Kohya => self.for_kohya(name, part, change)?,
                LoraNames::Diffusers | LoraNames::Peft => self.for_peft(name, part, change)?,
            };
            let mut changes = vec![Changed::Renamed];
            changes.extend((tensor.shape() != part.tensor.shape()).then_some(Changed::Reshaped));
            self.tensors.push(Tensor { key: format!("{stem}.{name}"), source: Some(part.key), changes, tensor });
        }
        match (self.names, change.stored_alpha, change.alpha) {
            (LoraNames::Kohya, Some(stored), _) => self.tensors.push(Tensor {
                key: format!("{stem}.alpha"),
                source: Some(stored.key),
                changes: vec![Changed::Renamed],
                tensor: stored.tensor.clone(),
            }),
            (LoraNames::Kohya, None, Some(alpha)) if !form::is_without(self.lora, change) => {
                let tensor = form::alpha(self.lora, change, alpha)?;
                self.tensors.push(Tensor { key: format!("{stem}.alpha"), source: None, changes: Vec::new(), tensor });
            }
            (LoraNames::Kohya, None, _) | (_, None, _) => {}
            (_, Some(stored), _) => {
                self.draft.ledger.dropped(Origin::Checkpoint, stored.key, DropReason::RecordedInConfig);
            }
        }
        Ok(())
    }

    /// The spelling of the output in kohya's names: that of the file that the LoRA once was, or the trainer's.
    fn spelling(&self) -> Spelling {
        let recorded = |field: &str| self.lora.record.get(field).and_then(Value::as_bool);
        let usual = Spelling::of(self.lora.architecture);
        Spelling {
            is_ldm: recorded("is_ldm").unwrap_or(usual.is_ldm),
            is_numbered: recorded("is_numbered").unwrap_or(usual.is_numbered),
        }
    }

    /// Returns a tensor under kohya's names.
    fn for_kohya(&self, name: &str, part: &lora::Part<'a>, change: &lora::Change<'a>) -> Result<(String, LazyTensor)> {
        match name {
            "lora_up.bias" => Err(self.refused(name, part)),
            MAGNITUDE => {
                let rows = part.tensor.shape().elements();
                Ok((DORA_SCALE.to_owned(), with_ones(part, rows, &[rows, 1], &[rows, 1, 1, 1], change)?))
            }
            _ => Ok((name.to_owned(), part.tensor.clone())),
        }
    }

    /// Returns a tensor under the names of diffusers and PEFT.
    fn for_peft(&self, name: &str, part: &lora::Part<'a>, change: &lora::Change<'a>) -> Result<(String, LazyTensor)> {
        let is_loha = change.parts.contains_key("hada_w1_a");
        let renamed = match name {
            "lora_down.weight" => "lora_A.weight",
            "lora_up.weight" => "lora_B.weight",
            "lora_up.bias" => "lora_B.bias",
            MAGNITUDE => MAGNITUDE,
            DORA_SCALE if !is_loha => {
                let dims = part.tensor.shape().dims();
                let rows = change.parts.get("lora_up.weight").and_then(|up| up.tensor.shape().dims().first().copied());
                let (Some(rows), Some(true)) = (rows, rows.map(|rows| dims.first() == Some(&rows))) else {
                    let found = format!("shape {}: magnitudes of DoRA by column", part.tensor.shape());
                    let expected = format!("{} has them by row", self.names.text());
                    return Err(Error::unsupported(format!("{found}, and {expected}")).in_tensor(part.key));
                };
                return Ok((MAGNITUDE.to_owned(), with_ones(part, rows, &[rows], &[1, rows, 1, 1], change)?));
            }
            name if self.names == LoraNames::Peft && name.starts_with("hada_") => name,
            _ => return Err(self.refused(name, part)),
        };
        Ok((renamed.to_owned(), part.tensor.clone()))
    }

    /// The error for a kind of change that the names cannot express.
    fn refused(&self, name: &str, part: &lora::Part<'a>) -> Error {
        let kind = lora::kind(std::iter::once((name, part.tensor)));
        let known = match self.names {
            LoraNames::Kohya => "LoRA, DoRA and the kinds of LyCORIS",
            LoraNames::Diffusers => "LoRA and DoRA",
            LoraNames::Peft => "LoRA, DoRA and LoHa",
        };
        let found = match (kind, self.names) {
            ("LoKr", LoraNames::Peft) => {
                "a change of the kind LoKr, which PEFT builds from factors in its configuration that no tensor shows; \
                 keep the names of kohya, which WebUI and ComfyUI read"
                    .to_owned()
            }
            (kind, names) => {
                format!("a change of the kind {kind}, for which {} has no names; it has for {known}", names.text())
            }
        };
        Error::unsupported(found).in_tensor(part.key)
    }

    /// Adds what names cannot say to the metadata. Returns the configuration for PEFT, and whether the metadata has scales.
    fn describe(&mut self, networks: &[Folder]) -> Result<(Option<String>, bool)> {
        let mut metadata = std::mem::take(&mut self.draft.metadata);
        metadata.shift_remove(RECORD);
        let earlier = metadata.shift_remove(ADAPTER_METADATA).map(|text| text.to_text());
        let recorded = |field: &str| self.lora.record.get(field).and_then(Value::as_str).map(str::to_owned);
        let has_alphas = self.lora.changes.iter().any(|change| change.alpha.is_some());
        let lora = self.lora;
        // What this program would write again is not recorded.
        let config = lora.config.clone().filter(|text| !adapter::is_own_config(lora, networks, text));
        let config = config.map(|text| (CONFIG.to_owned(), Value::from(text)));
        let (mut record, mut written, mut has_scales) = (Map::new(), None, false);
        match (self.names, networks) {
            (LoraNames::Kohya, _) => {
                let earlier = earlier.filter(|text| !adapter::is_own_metadata(lora, networks, text));
                let bare: Vec<&str> = lora.bare.iter().map(|network| network.name()).collect();
                record.extend((!bare.is_empty()).then(|| (BARE.to_owned(), bare.into())));
                record.extend(earlier.map(|text| (ADAPTER_METADATA.to_owned(), text.into())));
                record.extend(config);
            }
            (LoraNames::Diffusers, _) => {
                record = form::record(lora);
                record.extend(config);
                if has_alphas || lora.config.is_some() {
                    let own = recorded(ADAPTER_METADATA).filter(|text| adapter::agrees(lora, networks, text));
                    let text = own.map_or_else(|| adapter::metadata(lora, networks), Ok)?;
                    metadata.insert(ADAPTER_METADATA.to_owned(), PyValue::Str(text));
                    has_scales = true;
                }
            }
            (LoraNames::Peft, &[network]) => {
                record = form::record(lora);
                let is_second = network == Folder::TextEncoder2;
                record.extend(is_second.then(|| (NETWORK.to_owned(), network.name().into())));
                let own = recorded(CONFIG).filter(|text| adapter::config_agrees(lora, network, text));
                written = Some(own.map_or_else(|| adapter::config(lora, network), Ok)?);
            }
            (LoraNames::Peft, _) => return Err(Error::internal("a PEFT adapter is for one network")),
        }
        if !record.is_empty() {
            metadata.insert(RECORD.to_owned(), PyValue::Str(Value::Object(record).to_string()));
        }
        self.draft.metadata = metadata;
        Ok((written, has_scales))
    }
}

/// Returns a tensor of one number for each row with the dimensions that it has for a linear layer, or for a convolution.
fn with_ones(
    part: &lora::Part<'_>,
    rows: u64,
    linear: &[u64],
    convolution: &[u64],
    change: &lora::Change<'_>,
) -> Result<LazyTensor> {
    if part.tensor.shape().elements() != rows {
        let found = format!("shape {}, expected a number for each of {rows} rows", part.tensor.shape());
        return Err(Error::mismatch(found).in_tensor(part.key));
    }
    let down = change.parts.get("lora_down.weight").map(|down| down.tensor.shape().dims().len());
    let dims = if down == Some(4) { convolution } else { linear };
    part.tensor.clone().reshape(Shape::new(dims.to_vec())?)
}
