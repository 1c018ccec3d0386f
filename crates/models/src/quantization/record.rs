use std::collections::HashMap;

use indexmap::IndexMap;

use crate::ledger::{Change, Disposition, DropReason, Ledger, LedgerLine, Origin};

/// The record of a dequantization. It maps a ledger of dequantized tensors back to the tensors in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// The change of each dequantized weight.
    changes: HashMap<String, Change>,
    /// The companions and markers that are no longer needed, and the weight that a companion belongs to.
    dropped: IndexMap<String, Option<String>>,
}

impl Record {
    /// Records a dequantized weight.
    pub(super) fn changed(&mut self, weight: &str, change: Change) {
        self.changes.insert(weight.to_owned(), change);
    }

    /// Records a tensor that the dequantized weights do not need.
    pub(super) fn dropped(&mut self, key: &str, weight: Option<&str>) {
        self.dropped.insert(key.to_owned(), weight.map(str::to_owned));
    }

    /// Returns whether a tensor is no longer needed.
    pub(super) fn drops(&self, key: &str) -> bool {
        self.dropped.contains_key(key)
    }

    /// Returns whether nothing was dequantized or dropped.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.dropped.is_empty()
    }

    /// Returns whether a weight was dequantized.
    pub(super) fn has(&self, weight: &str) -> bool {
        self.changes.contains_key(weight)
    }

    /// Adds the changes to the lines of `origin`, and a line for each tensor that was dropped. A companion of a weight that
    /// the plan drops is dropped for the same reason.
    pub(crate) fn trace_back(&self, origin: Origin, ledger: &mut Ledger) {
        if self.is_empty() {
            return;
        }
        let reason = |line: &LedgerLine| match line.disposition {
            Disposition::Dropped { reason } if line.from == origin => Some((line.input.clone(), reason)),
            _ => None,
        };
        let reasons: HashMap<String, DropReason> = ledger.lines().iter().filter_map(reason).collect();
        ledger.rewrite(|mut line| {
            if line.from == origin
                && let Some(change) = self.changes.get(&line.input)
                && let Disposition::Written { changes, .. } | Disposition::Split { changes, .. } = &mut line.disposition
            {
                changes.insert(0, change.clone());
            }
            vec![line]
        });
        for (key, weight) in &self.dropped {
            let reason = weight.as_ref().and_then(|weight| reasons.get(weight));
            ledger.dropped(origin, key, reason.copied().unwrap_or(DropReason::Dequantized));
        }
    }
}
