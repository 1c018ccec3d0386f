//! Plans that follow each other: the output of the first is the checkpoint of the second.

use std::collections::HashMap;

use crate::ledger::{Disposition, Ledger, LedgerLine, Origin};
use crate::plan::{Account, Draft, Resolved};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};

impl Resolved {
    /// Returns the plan that does what this one and then `next` do. `next` must be a plan for a checkpoint with the tensors
    /// of this one.
    ///
    /// The ledger has a line for each tensor of the inputs of both. Fails if `next` is a plan for other tensors.
    pub fn then(self, next: Resolved) -> Result<Resolved> {
        let account = Account::of_both(&self.ledger, &next.ledger);
        let ledger = both(&self.ledger, &next.ledger)?;
        let mut notices = self.notices;
        notices.extend(next.notices);
        Draft { state_dict: next.state_dict, metadata: next.metadata, ledger, notices }.check(&account)
    }
}

/// Returns the ledger of two plans that follow each other.
fn both(first: &Ledger, next: &Ledger) -> Result<Ledger> {
    let of_first = next.lines().iter().filter(|line| line.from == Origin::Checkpoint);
    let continued: HashMap<&str, &LedgerLine> = of_first.map(|line| (line.input.as_str(), line)).collect();
    let mut ledger = Ledger::default();
    for line in first.lines() {
        match &line.disposition {
            Disposition::Written { key, changes } => {
                let later = continued.get(key.as_str()).or_internal("a plan does not continue the one before it")?;
                let mut disposition = later.disposition.clone();
                match &mut disposition {
                    Disposition::Written { changes: later, .. } | Disposition::Split { changes: later, .. } => {
                        later.splice(0..0, changes.iter().cloned());
                        later.dedup();
                    }
                    // What the first plan added and the second one drops is in no input.
                    Disposition::Replaced | Disposition::Dropped { .. } if line.from == Origin::Program => continue,
                    Disposition::Replaced | Disposition::Dropped { .. } => {}
                }
                ledger.add(LedgerLine { from: line.from, input: line.input.clone(), disposition });
            }
            Disposition::Split { .. } => {
                return Err(Error::internal("a plan that splits tensors has no successor").in_tensor(&line.input));
            }
            Disposition::Replaced | Disposition::Dropped { .. } => ledger.add(line.clone()),
        }
    }
    for line in next.lines().iter().filter(|line| line.from != Origin::Checkpoint) {
        ledger.add(line.clone());
    }
    Ok(ledger)
}
