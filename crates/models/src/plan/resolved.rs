use crate::ledger::Ledger;
use crate::notice::Notice;
use crate::plan::guard::{self, Account};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;

/// The output of a plan, resolved without reading tensor data: an ordinary state dict, and the account of all keys.
///
/// Only this crate's plans make one. Each accounts for every tensor of every input, and has lost none that matters.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The tensors of the output.
    pub state_dict: StateDict,
    /// The metadata of the output.
    pub metadata: Metadata,
    /// The disposition of each key of each input, as the input spells it.
    pub ledger: Ledger,
    /// Further facts the user should know.
    pub notices: Vec<Notice>,
    /// A `Resolved` cannot be made without [`Draft::check`].
    _seal: Seal,
}

impl Resolved {
    /// Checks a plan again that was changed since.
    pub(crate) fn recheck(self, account: &Account) -> Result<Self> {
        guard::check(&self.state_dict, &self.ledger, account)?;
        Ok(self)
    }
}

/// What only this module can make.
#[derive(Debug, Clone, Copy)]
struct Seal;

/// A plan that was not checked yet.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// The tensors of the output.
    pub state_dict: StateDict,
    /// The metadata of the output.
    pub metadata: Metadata,
    /// The disposition of each key of each input, as the input spells it.
    pub ledger: Ledger,
    /// Further facts the user should know.
    pub notices: Vec<Notice>,
}

impl Draft {
    /// Checks the plan against its inputs. Removes metadata that the changes made wrong.
    ///
    /// Fails if the output has no tensors, or lost some that neither the user asked to drop nor are known to be useless.
    pub(crate) fn check(mut self, account: &Account) -> Result<Resolved> {
        guard::check(&self.state_dict, &self.ledger, account)?;
        self.notices.extend(guard::remove_stale_hashes(&mut self.metadata, &self.ledger));
        let Draft { state_dict, metadata, ledger, notices } = self;
        Ok(Resolved { state_dict, metadata, ledger, notices, _seal: Seal })
    }
}
