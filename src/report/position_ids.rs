use serde::{Serialize, Serializer};

use crate::report::tip::Tip;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_models::position_ids::{self, State};

/// Positions that the text lists.
const SHOWN_POSITIONS: usize = 8;

/// The state of a text encoder's position_ids.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PositionIds {
    /// I64, 0 to the last position.
    Correct,
    /// The correct values in this dtype.
    WrongDtype(Dtype),
    /// Other values, in this dtype, which lack these positions once they are integers.
    WrongValues(Dtype, Vec<u64>),
    /// The text encoder has none.
    Missing,
    /// They could not be read, for this reason.
    Unreadable(String),
}

impl PositionIds {
    /// Checks position_ids; `None` without a text encoder. This is the only tensor that an inspection reads.
    pub(super) fn of(state_dict: &StateDict) -> Option<Self> {
        let Some((key, tensor)) = state_dict.iter().find(|(key, _)| position_ids::is_key(key)) else {
            return state_dict.keys().find_map(position_ids::key_beside).map(|_| PositionIds::Missing);
        };
        Some(match position_ids::check(tensor, position_ids::positions(state_dict, key)) {
            Ok(State::Correct) => PositionIds::Correct,
            Ok(State::WrongDtype) => PositionIds::WrongDtype(tensor.dtype()),
            Ok(State::WrongValues) => {
                let missing = position_ids::missing(tensor, position_ids::positions(state_dict, key));
                PositionIds::WrongValues(tensor.dtype(), missing.unwrap_or_default())
            }
            Err(error) => PositionIds::Unreadable(error.to_string()),
        })
    }

    /// The word for scripts, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            PositionIds::Correct => State::Correct.name(),
            PositionIds::WrongDtype(_) => State::WrongDtype.name(),
            PositionIds::WrongValues(..) => State::WrongValues.name(),
            PositionIds::Missing => "missing",
            PositionIds::Unreadable(_) => "unreadable",
        }
    }

    /// The state in words.
    pub fn to_text(&self) -> String {
        match self {
            PositionIds::Correct => "ok".to_owned(),
            PositionIds::WrongDtype(dtype) => format!("{dtype} instead of I64"),
            PositionIds::WrongValues(dtype, missing) => {
                let shown: Vec<String> = missing.iter().take(SHOWN_POSITIONS).map(u64::to_string).collect();
                let more = if missing.len() > SHOWN_POSITIONS { ", …" } else { "" };
                let missing =
                    if shown.is_empty() { String::new() } else { format!(", without {}{more}", shown.join(", ")) };
                format!("WRONG values, {dtype}{missing}")
            }
            PositionIds::Missing => "missing".to_owned(),
            PositionIds::Unreadable(reason) => reason.clone(),
        }
    }

    /// The tip that corrects the state, if a conversion can do that.
    pub(super) fn tip(&self) -> Option<Tip> {
        match self {
            PositionIds::WrongDtype(_) | PositionIds::WrongValues(..) => Some(Tip::WrongPositionIds),
            PositionIds::Missing => Some(Tip::MissingPositionIds),
            PositionIds::Correct | PositionIds::Unreadable(_) => None,
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for PositionIds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PositionIds".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": ["ok", "wrong-dtype", "wrong-values", "missing", "unreadable"] })
    }
}

impl Serialize for PositionIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
