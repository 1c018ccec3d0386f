//! Selects and renames tensors of any file by patterns, without regard to what they are.

mod pattern;

use std::collections::HashMap;

pub use pattern::{Pattern, Renaming};

use crate::checkpoint::Checkpoint;
use crate::file_kind;
use crate::ledger::{Change, Disposition, DropReason, LedgerLine, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Account, Draft, Resolved};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// Which tensors of a file to take. The default takes all.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The tensors to take; all if there are no patterns.
    pub select: Vec<Pattern>,
    /// The tensors to leave out of those.
    pub drop: Vec<Pattern>,
}

/// A file with some of its tensors.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Selected {
    /// The plan. Another plan for [`Self::checkpoint`] can follow it; see [`Resolved::then`].
    pub resolved: Resolved,
    /// The file with the tensors that were taken.
    pub checkpoint: Checkpoint,
}

impl Selection {
    /// Returns whether all tensors are taken.
    pub fn is_all(&self) -> bool {
        self.select.is_empty() && self.drop.is_empty()
    }

    fn takes(&self, key: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(key));
        (self.select.is_empty() || any(&self.select)) && !any(&self.drop)
    }

    /// Plans to take these tensors of a checkpoint, under the keys that its file stores, and to leave out the others, also
    /// those that cannot be read.
    ///
    /// Fails if a pattern is for no tensor, or if none remains.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<Selected> {
        self.apply(checkpoint).map_err(|error| error.in_file(checkpoint.path()))
    }

    fn apply(&self, checkpoint: &Checkpoint) -> Result<Selected> {
        let stored = checkpoint.stored();
        let unreadable = stored.unreadable().iter().map(|tensor| tensor.key.as_str());
        let keys: Vec<&str> = stored.state_dict().keys().chain(unreadable).collect();
        for pattern in self.select.iter().chain(&self.drop) {
            if !keys.iter().any(|key| pattern.matches(key)) {
                return Err(nothing_matches(&pattern.to_string(), &keys));
            }
        }
        stored.refuse_unreadable_among(|key| self.takes(key))?;
        let mut draft = Draft { metadata: stored.metadata().clone(), ..Draft::default() };
        for &key in &keys {
            match stored.state_dict().get(key) {
                Some(tensor) if self.takes(key) => {
                    draft.state_dict.insert(key, tensor.clone())?;
                    draft.ledger.written(Origin::Checkpoint, key, key, Vec::new());
                }
                _ => draft.ledger.dropped(Origin::Checkpoint, key, DropReason::NotSelected),
            }
        }
        if draft.state_dict.is_empty() {
            return Err(Error::missing(format!("nothing would remain of its {} tensors", keys.len())));
        }
        let text = format!("selected {} of {} tensors", draft.state_dict.len(), keys.len());
        draft.notices.push(Notice::new(NoticeCode::Selected, text));
        let resolved = draft.check(&Account::default().input(Origin::Checkpoint, checkpoint))?;
        let filtered = stored.with_selection(resolved.state_dict.clone(), resolved.metadata.clone());
        Ok(Selected { checkpoint: Checkpoint::from_stored(filtered)?, resolved })
    }
}

/// The error for a pattern that is for no tensor.
fn nothing_matches(pattern: &str, keys: &[&str]) -> Error {
    let first: Vec<&str> = keys.iter().take(3).copied().collect();
    Error::missing(format!("no tensor has a name like {pattern}; found {}, …", first.join(", ")))
}

/// Renames the tensors of an output. The first renaming whose pattern is for a name decides. The order stays.
///
/// Fails if a renaming is used for no tensor, or if two tensors get the same name.
pub fn rename(resolved: Resolved, renamings: &[Renaming]) -> Result<Resolved> {
    if renamings.is_empty() {
        return Ok(resolved);
    }
    let Resolved { state_dict, metadata, mut ledger, mut notices, .. } = resolved;
    let account = Account::of_ledger(&ledger);
    let mut uses = vec![false; renamings.len()];
    let (mut renamed, mut names): (_, HashMap<String, String>) = (StateDict::new(), HashMap::new());
    for (key, tensor) in state_dict.iter() {
        let found = renamings.iter().zip(&mut uses).find_map(|(rule, is_used)| Some((rule.apply(key)?, is_used)));
        let name = found.map_or_else(
            || key.to_owned(),
            |(name, is_used)| {
                *is_used = true;
                name
            },
        );
        if renamed.contains(&name) {
            let other = names.iter().find(|(_, taken)| **taken == name).map_or(name.as_str(), |(other, _)| other);
            let found = format!("gets the name {name}, which {other} has or gets too");
            return Err(Error::conflict(found).in_tensor(key));
        }
        renamed.insert(name.as_str(), tensor.clone())?;
        names.insert(key.to_owned(), name);
    }
    if let Some((unused, _)) = renamings.iter().zip(uses).find(|(_, is_used)| !is_used) {
        let keys: Vec<&str> = state_dict.keys().collect();
        return Err(nothing_matches(&unused.to_string(), &keys));
    }
    let count = names.iter().filter(|(key, name)| key != name).count();
    ledger.rewrite(|mut line: LedgerLine| {
        if let Disposition::Written { key, changes } = &mut line.disposition
            && let Some(name) = names.get(key).filter(|name| *name != key)
        {
            name.clone_into(key);
            if !changes.contains(&Change::Renamed) {
                changes.push(Change::Renamed);
            }
        }
        vec![line]
    });
    let text = format!("renamed {count} tensors; the output is: {}", file_kind::describe(&renamed));
    notices.push(Notice::new(NoticeCode::Renamed, text));
    Draft { state_dict: renamed, metadata, ledger, notices }.check(&account)
}
