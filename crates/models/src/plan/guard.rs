//! The check that every plan passes before it can be written: each tensor of each input is kept, replaced, or dropped for a
//! reason that the user asked for or that is known to be harmless.

use std::collections::{HashMap, HashSet};

use crate::checkpoint::Checkpoint;
use crate::ledger::{Change, Disposition, DropReason, Ledger, LedgerLine, Loss, Origin};
use crate::notice::{Notice, NoticeCode};
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;

/// Metadata fields with a hash of the tensors, as sd-scripts and the model metadata standard of Stability AI write them.
const HASHES: &[&str] = &["modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"];

/// The tensors that a plan must account for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    keys: HashSet<(Origin, String)>,
    /// Whether tensors may be lost for which the output has no place.
    allows_loss: bool,
}

impl Account {
    /// Adds the tensors of an input, under the keys of its file.
    pub(crate) fn input(mut self, origin: Origin, checkpoint: &Checkpoint) -> Self {
        let stored = checkpoint.stored();
        let unreadable = stored.unreadable().iter().map(|unreadable| unreadable.key.as_str());
        self.keys.extend(stored.state_dict().keys().chain(unreadable).map(|key| (origin, key.to_owned())));
        self
    }

    /// The tensors of an earlier plan, and the losses that it was allowed.
    pub(crate) fn of_ledger(ledger: &Ledger) -> Self {
        let inputs = ledger.lines().iter().filter(|line| line.from != Origin::Program);
        let had_loss = ledger.lines().iter().any(is_loss);
        Account { keys: inputs.map(|line| (line.from, line.input.clone())).collect(), allows_loss: had_loss }
    }

    /// The tensors of two plans of which the second one continues the first.
    pub(super) fn of_both(first: &Ledger, next: &Ledger) -> Self {
        let mut account = Account::of_ledger(first);
        let next = Account::of_ledger(next);
        account.keys.extend(next.keys.into_iter().filter(|(origin, _)| *origin != Origin::Checkpoint));
        account.allow_loss(next.allows_loss)
    }

    /// Allows to lose tensors for which the output has no place.
    pub(crate) fn allow_loss(mut self, allow: bool) -> Self {
        self.allows_loss |= allow;
        self
    }
}

/// Checks a plan.
///
/// Fails if a tensor was lost, or if the output has no tensors. A ledger that contradicts the inputs or the output is an
/// internal error.
pub(super) fn check(state_dict: &StateDict, ledger: &Ledger, account: &Account) -> Result<()> {
    check_inputs(ledger, account)?;
    check_outputs(state_dict, ledger)?;
    refuse_loss(ledger, account)?;
    check_replacements(ledger)?;
    if state_dict.is_empty() {
        return Err(Error::missing("the output would have no tensors"));
    }
    refuse_remnants(ledger)
}

/// Fails unless each key of each input has exactly one line.
fn check_inputs(ledger: &Ledger, account: &Account) -> Result<()> {
    let mut seen = HashSet::new();
    for line in ledger.lines() {
        if !seen.insert((line.from, line.input.as_str())) {
            return Err(Error::internal("a tensor has two lines in the ledger").in_tensor(&line.input));
        }
        if line.from != Origin::Program && !account.keys.contains(&(line.from, line.input.clone())) {
            return Err(Error::internal("the ledger has a tensor that no input has").in_tensor(&line.input));
        }
    }
    let forgotten = account.keys.iter().filter(|(origin, key)| !seen.contains(&(*origin, key.as_str())));
    match forgotten.min() {
        Some((_, key)) => Err(Error::internal("the ledger lacks a tensor of the input").in_tensor(key)),
        None => Ok(()),
    }
}

/// Fails unless each output tensor has exactly one origin: one tensor, or several of one input that are joined.
fn check_outputs(state_dict: &StateDict, ledger: &Ledger) -> Result<()> {
    let mut origins: HashMap<&str, (Origin, bool)> = HashMap::new();
    for line in ledger.lines() {
        let is_joined =
            matches!(&line.disposition, Disposition::Written { changes, .. } if changes.contains(&Change::Joined));
        for key in line.outputs() {
            if !state_dict.contains(key) {
                return Err(Error::internal("the ledger writes a tensor that the output lacks").in_tensor(key));
            }
            let other = origins.insert(key, (line.from, is_joined));
            if other.is_some_and(|other| other != (line.from, is_joined) || !is_joined) {
                return Err(Error::internal("a tensor of the output has two origins").in_tensor(key));
            }
        }
    }
    match state_dict.keys().find(|key| !origins.contains_key(key)) {
        Some(key) => Err(Error::internal("a tensor of the output has no origin").in_tensor(key)),
        None => Ok(()),
    }
}

fn is_loss(line: &LedgerLine) -> bool {
    matches!(line.disposition, Disposition::Dropped { reason } if reason.loss() == Loss::Lost)
}

/// Fails if a tensor was dropped for a reason that is neither asked for nor harmless.
fn refuse_loss(ledger: &Ledger, account: &Account) -> Result<()> {
    if account.allows_loss {
        return Ok(());
    }
    let lost = ledger.lines().iter().filter(|line| is_loss(line)).filter_map(|line| match line.disposition {
        Disposition::Dropped { reason } => Some((line, reason)),
        _ => None,
    });
    let lost: Vec<(&LedgerLine, DropReason)> = lost.collect();
    let Some(&(line, reason)) = lost.first() else { return Ok(()) };
    let more = match lost.len() - 1 {
        0 => String::new(),
        1 => "; another tensor would be lost too".to_owned(),
        more => format!("; {more} other tensors would be lost too"),
    };
    let found = format!("the output would lack it ({}){more}", reason.text());
    Err(Error::unsupported(found).with_hint(Hint::AllowLoss).in_tensor(&line.input))
}

/// Fails if tensors were replaced, but none replaces them.
fn check_replacements(ledger: &Ledger) -> Result<()> {
    let is_replacement = |line: &LedgerLine| matches!(&line.disposition, Disposition::Written { changes, .. } if changes.contains(&Change::Replaces));
    let mut replaced = ledger.lines().iter().filter(|line| line.disposition == Disposition::Replaced);
    match replaced.next() {
        Some(line) if !ledger.lines().iter().any(is_replacement) => {
            Err(Error::internal("replaced by nothing").in_tensor(&line.input))
        }
        _ => Ok(()),
    }
}

/// Fails if more tensors of the checkpoint were dropped without a request than are in the output: it is not the kind of file
/// that such tensors are harmless in.
fn refuse_remnants(ledger: &Ledger) -> Result<()> {
    let (mut written, mut dropped) = (0, 0);
    for line in ledger.lines().iter().filter(|line| line.from == Origin::Checkpoint) {
        match line.disposition {
            // Parts of quantized weights go with weights that are written.
            Disposition::Dropped { reason: DropReason::Dequantized } => {}
            Disposition::Dropped { reason } => dropped += usize::from(reason.loss() == Loss::Harmless),
            _ => written += 1,
        }
    }
    if dropped > written {
        let found = format!("the output would have {written} tensors and lack {dropped}");
        return Err(Error::conflict(found));
    }
    Ok(())
}

/// Removes hashes of the tensors from the metadata, if the output does not have the tensors of one input unchanged.
pub(super) fn remove_stale_hashes(metadata: &mut Metadata, ledger: &Ledger) -> Option<Notice> {
    let is_kept = |line: &LedgerLine| match &line.disposition {
        Disposition::Written { key, changes } => changes.is_empty() && *key == line.input,
        _ => false,
    };
    if ledger.lines().iter().all(is_kept) {
        return None;
    }
    let stale: Vec<&str> = HASHES.iter().copied().filter(|field| metadata.shift_remove(*field).is_some()).collect();
    (!stale.is_empty()).then(|| {
        let text = format!("left out hashes in the metadata, which the output does not match: {}", stale.join(", "));
        Notice::new(NoticeCode::StaleHash, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::plan::Draft;
    use trinart_ckpt_formats::error::Kind;
    use trinart_ckpt_formats::metadata::PyValue;
    use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

    fn state_dict(keys: &[&str]) -> StateDict {
        let mut state_dict = StateDict::new();
        for &key in keys {
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new([1]).unwrap(), [1]).unwrap();
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    fn account(keys: &[&str]) -> Account {
        let keys = keys.iter().map(|&key| (Origin::Checkpoint, key.to_owned()));
        Account { keys: keys.collect(), allows_loss: false }
    }

    fn kept(keys: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for key in keys {
            ledger.written(Origin::Checkpoint, key, key, Vec::new());
        }
        ledger
    }

    #[track_caller]
    fn assert_refused(output: &[&str], ledger: &Ledger, account: &Account, kind: Kind, word: &str) {
        let error = check(&state_dict(output), ledger, account).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }

    #[test]
    fn rejects_a_plan_that_forgets_or_invents_a_tensor() {
        let both = account(&["a", "b"]);
        check(&state_dict(&["a", "b"]), &kept(&["a", "b"]), &both).unwrap();
        assert_refused(&["a"], &kept(&["a"]), &both, Kind::Internal, "lacks a tensor of the input");
        assert_refused(&["a", "b"], &kept(&["a", "b"]), &account(&["a"]), Kind::Internal, "no input has");
        assert_refused(&["a", "b"], &kept(&["a", "b", "b"]), &both, Kind::Internal, "two lines");
        assert_refused(&["a", "b", "c"], &kept(&["a", "b"]), &both, Kind::Internal, "no origin");
        assert_refused(&["a"], &kept(&["a", "b"]), &both, Kind::Internal, "the output lacks");
        let mut twice = kept(&["a"]);
        twice.written(Origin::Checkpoint, "b", "a", Vec::new());
        assert_refused(&["a"], &twice, &both, Kind::Internal, "two origins");
        let mut joined = Ledger::default();
        for key in ["a", "b"] {
            joined.written(Origin::Checkpoint, key, "ab", vec![Change::Joined]);
        }
        check(&state_dict(&["ab"]), &joined, &both).unwrap();
        let mut replaced = kept(&["a"]);
        replaced.replaced(Origin::Checkpoint, "first_stage_model.x");
        let account = account(&["a", "first_stage_model.x"]);
        assert_refused(&["a"], &replaced, &account, Kind::Internal, "replaced by nothing");
    }

    #[test]
    fn rejects_a_loss_unless_it_is_allowed() {
        let both = account(&["a", "b"]);
        for (reason, is_loss) in [
            (DropReason::NotInFolders, true),
            (DropReason::EmaUnmatched, true),
            (DropReason::OtherComponent, false),
            (DropReason::RedundantConstant, false),
        ] {
            let mut ledger = kept(&["a"]);
            ledger.dropped(Origin::Checkpoint, "b", reason);
            if is_loss {
                assert_refused(&["a"], &ledger, &both, Kind::Unsupported, "tensor b: the output would lack it");
            }
            check(&state_dict(&["a"]), &ledger, &both.clone().allow_loss(is_loss)).unwrap();
        }
    }

    #[test]
    fn rejects_an_output_without_tensors_or_with_remnants() {
        assert_refused(&[], &Ledger::default(), &Account::default(), Kind::Missing, "no tensors");
        let mut asked = Ledger::default();
        asked.dropped(Origin::Checkpoint, "a", DropReason::OtherComponent);
        assert_refused(&[], &asked, &account(&["a"]), Kind::Missing, "no tensors");
        let mut harmless = kept(&["a"]);
        for key in ["b", "c"] {
            harmless.dropped(Origin::Checkpoint, key, DropReason::EmaNotInFolders);
        }
        assert_refused(&["a"], &harmless, &account(&["a", "b", "c"]), Kind::Conflict, "1 tensors and lack 2");
        let mut dequantized = kept(&["a"]);
        for key in ["b", "c"] {
            dequantized.dropped(Origin::Checkpoint, key, DropReason::Dequantized);
        }
        check(&state_dict(&["a"]), &dequantized, &account(&["a", "b", "c"])).unwrap();
    }

    #[test]
    fn removes_hashes_that_the_output_does_not_match() {
        let draft = |ledger: Ledger, output: &str| {
            let text = |name: &str| (name.to_owned(), PyValue::Str("x".to_owned()));
            let metadata =
                ["modelspec.title", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"].map(text);
            Draft { state_dict: state_dict(&[output]), metadata: metadata.into(), ledger, notices: Vec::new() }
        };
        let unchanged = draft(kept(&["a"]), "a").check(&account(&["a"])).unwrap();
        assert_eq!((unchanged.metadata.len(), unchanged.notices.len()), (4, 0));
        let mut renamed = Ledger::default();
        renamed.written(Origin::Checkpoint, "a", "b", vec![Change::Renamed]);
        let changed = draft(renamed, "b").check(&account(&["a"])).unwrap();
        assert_eq!(changed.metadata.keys().collect::<Vec<_>>(), ["modelspec.title"]);
        assert_eq!(changed.notices.first().unwrap().code, NoticeCode::StaleHash);
    }
}
