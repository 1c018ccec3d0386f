//! Judges what hides what a pickle does, as far as it can be judged by itself.

use super::names::Judgement;
use super::usage::Usage;
use crate::pickle::Oddity;

/// Returns what an oddity is, its level and how a pickle uses it. `None` if that depends on other values.
pub(super) fn judge_oddity(oddity: Oddity) -> Option<(&'static str, Judgement, Usage)> {
    Some(match oddity {
        Oddity::ComputedName => ("a name that it computes", Judgement::dangerous("cannot be judged"), Usage::Imports),
        Oddity::Extension(_) => {
            let judgement = Judgement::dangerous("refers to a name that is not in the file");
            ("an entry of the extension registry", judgement, Usage::Imports)
        }
        Oddity::Buffer => ("an out-of-band buffer", Judgement::unknown("is not in the file"), Usage::Contains),
        Oddity::Reserve => {
            let judgement = Judgement::dangerous("makes Python allocate gigabytes of memory");
            ("a memo index too large for any real file", judgement, Usage::Contains)
        }
        Oddity::Straddle => {
            let judgement = Judgement::dangerous("may make Python import names other than those shown here");
            ("an opcode that straddles the end of its frame", judgement, Usage::Contains)
        }
        Oddity::MissingElements => {
            let judgement = Judgement::unknown("has fewer elements in the file than joblib allocates");
            ("an array of joblib", judgement, Usage::Contains)
        }
        Oddity::Items => {
            ("a method of a value", Judgement::unknown("takes no items, or not in this way"), Usage::Calls)
        }
        Oddity::State(_) | Oddity::Persistent(_) => return None,
    })
}
