use crate::ledger::Ledger;
use crate::notice::Notice;
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;

/// The output of a plan, resolved without reading tensor data: an ordinary state dict, and the account of all keys.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// The tensors of the output.
    pub state_dict: StateDict,
    /// The metadata of the output.
    pub metadata: Metadata,
    /// The disposition of each key of each input, as the input spells it.
    pub ledger: Ledger,
    /// Further facts the user should know.
    pub notices: Vec<Notice>,
}
