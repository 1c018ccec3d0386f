//! What the keys, dtypes and shapes of a file tell. Most files of a folder have the structure of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;

use crate::report::{ComponentSummary, components};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::{Kind, Result};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::detection::Detection;
use trinart_ckpt_models::file_kind::Identity;
use trinart_ckpt_models::hash::structure_hash;
use trinart_ckpt_models::plan::repair::{self, Repair, RepairKind};
use trinart_ckpt_models::quantization::{Method, Survey};

/// The most structures that are kept, and the most keys that one lists. Bounds the memory.
const MOST: usize = 4096;
const MOST_KEYS: usize = 1000;

/// Where a textual inversion of WebUI has its tensors.
const EMBEDDING: &str = "string_to_param";

/// What the structure of a file tells.
#[derive(Debug, Clone)]
pub(super) struct Structure {
    pub(super) identity: Identity,
    pub(super) detection: Detection,
    /// The components of the checkpoint in LDM names.
    pub(super) components: Vec<ComponentSummary>,
    pub(super) quantization: IndexMap<Method, usize>,
    pub(super) defects: Defects,
    /// Whether the file has LDM names, or names that are not translated.
    pub(super) is_as_stored: bool,
}

/// What a repair would remove.
#[derive(Debug, Clone)]
pub(super) enum Defects {
    /// These defects.
    Repairs(Vec<Repair>),
    /// A defect that a repair cannot remove, in words.
    Unrepairable(String),
    /// The tensors could not be read.
    Unknown,
}

impl Structure {
    /// Looks at a file, and at its translation to LDM names.
    pub(super) fn of(stored: &StoredCheckpoint, translated: &Result<Checkpoint>) -> Self {
        let detection = Checkpoint::detect(stored);
        // Components are counted by LDM names. If a folder has keys without LDM names, all its keys are counted as stored.
        let state_dict = translated.as_ref().map_or_else(|_| stored.state_dict(), Checkpoint::state_dict);
        let pipeline = stored.configs().get("model_index").and_then(|index| index.get("_class_name")?.as_str());
        let identity = match pipeline {
            Some(class) => Identity::of(state_dict).in_folder_of(class),
            None if stored.root() == EMBEDDING => Identity::under(EMBEDDING, state_dict),
            None => Identity::of(state_dict),
        };
        Structure {
            components: components(state_dict, identity.kind, detection.architecture()),
            quantization: Survey::of(state_dict).counts(),
            defects: translated.as_ref().map_or(Defects::Unknown, Defects::of),
            is_as_stored: translated.as_ref().is_ok_and(|it| it.translation().is_identity()),
            identity,
            detection,
        }
    }

    /// What is so for all files with these keys, dtypes and shapes, whatever else is in them; `None` if the values decide.
    fn of_all_files(&self) -> Option<Self> {
        let Defects::Repairs(repairs) = &self.defects else { return None };
        let completeness = self.components.iter().filter_map(|it| it.completeness.as_ref());
        let keys: usize = completeness.map(|it| it.missing.len() + it.extra.len() + it.duplicate.len()).sum();
        let keys = keys + self.components.iter().map(|it| it.keys.len()).sum::<usize>();
        // That tensors are duplicates depends on their values.
        if keys > MOST_KEYS || repairs.iter().any(|repair| repair.kind == RepairKind::Duplicate) {
            return None;
        }
        let of_tensors = repairs.iter().filter(|repair| !repair.kind.is_of_file());
        let defects = Defects::Repairs(of_tensors.cloned().collect());
        Some(Structure { defects, ..self.clone() })
    }
}

impl Defects {
    fn of(checkpoint: &Checkpoint) -> Self {
        // A file without tensors has nothing to repair, which its kind says.
        if checkpoint.state_dict().is_empty() {
            return Defects::Repairs(Vec::new());
        }
        match repair::plan(checkpoint) {
            Ok(repaired) => Defects::Repairs(repaired.repairs),
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Missing | Kind::Mismatch) => {
                let tensor = error.tensor().map_or_else(String::new, |key| format!("{key}: "));
                Defects::Unrepairable(format!("{tensor}{}", error.message()))
            }
            // Others are not about defects, such as a tensor that cannot be read.
            Err(_) => Defects::Unknown,
        }
    }

    /// The repairs, and the defect that a repair cannot remove.
    pub(super) fn into_parts(self) -> (Vec<Repair>, Option<String>) {
        match self {
            Defects::Repairs(repairs) => (repairs, None),
            Defects::Unrepairable(text) => (Vec::new(), Some(text)),
            Defects::Unknown => (Vec::new(), None),
        }
    }
}

/// The structures of files that were looked at.
#[derive(Debug, Default)]
pub(super) struct KnownStructures {
    known: Mutex<HashMap<[u8; 32], Arc<Structure>>>,
}

impl KnownStructures {
    /// Returns what the structure of a file tells; `look` looks at the file, unless another file had the same structure.
    /// Leaves out the repairs of position_ids, whose values decide.
    pub(super) fn of(&self, stored: &StoredCheckpoint, look: impl FnOnce() -> Structure) -> Structure {
        // What a folder or an embedding is does not depend on its tensors alone.
        let is_folder = stored.container() == Container::Diffusers;
        if is_folder || stored.root() == EMBEDDING || !stored.unreadable().is_empty() {
            return look();
        }
        let hash = structure_hash(stored.state_dict());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = known().get(&hash).map(Arc::clone);
        if let Some(earlier) = earlier {
            let mut found = Structure::clone(&earlier);
            if let Defects::Repairs(repairs) = &mut found.defects {
                repairs.extend(repair::of_file(stored));
            }
            return found;
        }
        let mut found = look();
        if let Defects::Repairs(repairs) = &mut found.defects {
            repairs.retain(|repair| repair.kind != RepairKind::PositionIds);
        }
        let mut known = known();
        if let Some(of_all) = found.of_all_files().filter(|_| known.len() < MOST) {
            known.insert(hash, Arc::new(of_all));
        }
        found
    }
}
