//! The position_ids of text encoders: the constant 0 to 76, which many checkpoints hold in a broken form.
//!
//! Casting a whole checkpoint to half precision and merging checkpoints turn them into floats, and merging may change
//! the values. WebUI truncates the result (75.9975 becomes 75), ComfyUI rounds it, so the same file renders differently.

use crate::notice::{Notice, NoticeCode};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow, Shape};

/// The end of the key, in every layout.
const NAME: &str = "embeddings.position_ids";

/// The end of the position embedding's key. Its rows are the positions.
const POSITIONS: &str = "embeddings.position_embedding.weight";

/// The most positions that position_ids are read or created for. A forged embedding without columns can have any number of
/// rows.
const MOST_POSITIONS: u64 = 1 << 16;

/// The state of position_ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// I64, 0 to the last position.
    Correct,
    /// The correct values in another dtype.
    WrongDtype,
    /// Other values.
    WrongValues,
}

impl State {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Correct => "ok",
            State::WrongDtype => "wrong-dtype",
            State::WrongValues => "wrong-values",
        }
    }
}

/// Returns whether this is the key of position_ids.
pub fn is_key(key: &str) -> bool {
    key == NAME || key.strip_suffix(NAME).is_some_and(|prefix| prefix.ends_with('.'))
}

/// Returns the key of the position_ids that belong to this position embedding of a text encoder; `None` for other keys.
pub fn key_beside(key: &str) -> Option<String> {
    key.strip_suffix(POSITIONS)
        .filter(|prefix| !prefix.ends_with("vision_model."))
        .map(|prefix| format!("{prefix}{NAME}"))
}

/// Returns the key of the position embedding that belongs to these position_ids; `None` for other keys.
pub(crate) fn embedding_beside(key: &str) -> Option<String> {
    Some(format!("{}{POSITIONS}", key.strip_suffix(NAME)?))
}

/// Checks position_ids against the number of positions, if known. Reads the tensor: 77 values.
pub fn check(tensor: &LazyTensor, positions: Option<u64>) -> Result<State> {
    let found = tensor.shape().elements();
    if found > MOST_POSITIONS || positions.is_some_and(|positions| positions != found) {
        return Ok(State::WrongValues);
    }
    let expected = (0..tensor.shape().elements()).map(|position| position as f64);
    let values = values(tensor)?;
    Ok(match (values.iter().copied().eq(expected), tensor.dtype()) {
        (true, Dtype::I64) => State::Correct,
        (true, _) => State::WrongDtype,
        (false, _) => State::WrongValues,
    })
}

/// Returns the positions that position_ids lack once they are integers, as WebUI truncates them. Reads the tensor.
pub fn missing(tensor: &LazyTensor, positions: Option<u64>) -> Result<Vec<u64>> {
    let elements = tensor.shape().elements();
    if elements > MOST_POSITIONS || !tensor.dtype().is_float() && !matches!(tensor.dtype(), Dtype::I64 | Dtype::I32) {
        return Ok(Vec::new());
    }
    let values: Vec<f64> = values(tensor)?.iter().map(|value| value.trunc()).collect();
    let expected = 0..positions.unwrap_or(elements).min(MOST_POSITIONS);
    Ok(expected.filter(|&position| !values.contains(&(position as f64))).collect())
}

/// Reads position_ids; empty for a dtype that they never have.
fn values(tensor: &LazyTensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        Dtype::I64 => tensor.to_bytes()?.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f64).collect(),
        Dtype::I32 => tensor.to_bytes()?.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        dtype if dtype.is_float() => {
            let singles = tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes()?;
            singles.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()
        }
        _ => Vec::new(),
    })
}

/// Returns a notice about a tensor that is wrong position_ids and stays so; `None` for any other tensor. Reads only
/// position_ids.
pub(crate) fn notice(key: &str, tensor: &LazyTensor, positions: Option<u64>) -> Result<Option<Notice>> {
    if !is_key(key) {
        return Ok(None);
    }
    let wrong = match check(tensor, positions)? {
        State::Correct => return Ok(None),
        State::WrongDtype => "are correct, but not I64",
        State::WrongValues => "are wrong: programs round them to other positions, so that pictures differ",
    };
    let text = format!("{key}: position_ids in {} {wrong}", tensor.dtype());
    Ok(Some(Notice::new(NoticeCode::PositionIdsWrong, text)))
}

/// Describes correct position_ids: `I64, 0 to 76`.
pub fn describe(positions: u64) -> String {
    match positions.checked_sub(1) {
        Some(last) => format!("I64, 0 to {last}"),
        None => "I64, empty".to_owned(),
    }
}

/// Returns the correct position_ids: I64, shape `[1, positions]`. Fails for more positions than any text encoder has.
pub fn correct(positions: u64) -> Result<LazyTensor> {
    if positions > MOST_POSITIONS {
        return Err(Error::limit(format!("{positions} positions, the limit is {MOST_POSITIONS}")));
    }
    let bytes: Vec<u8> = (0..positions).flat_map(u64::to_le_bytes).collect();
    LazyTensor::owned(Dtype::I64, Shape::new([1, positions])?, bytes)
}

/// Returns the number of positions of the embedding that belongs to these position_ids.
pub fn positions(state_dict: &StateDict, ids: &str) -> Option<u64> {
    state_dict.get(&embedding_beside(ids)?)?.shape().dims().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_the_keys_of_every_layout() {
        for key in [
            "cond_stage_model.transformer.text_model.embeddings.position_ids",
            "cond_stage_model.transformer.embeddings.position_ids",
            "text_model.embeddings.position_ids",
            "embeddings.position_ids",
        ] {
            assert!(is_key(key), "{key}");
        }
        assert!(!is_key("some_embeddings.position_ids"));
        assert_eq!(key_beside("a.embeddings.position_embedding.weight").as_deref(), Some("a.embeddings.position_ids"));
        assert_eq!(key_beside("a.embeddings.token_embedding.weight"), None);
    }

    #[test]
    fn refuses_to_create_more_positions_than_any_text_encoder_has() {
        assert!(correct(MOST_POSITIONS).is_ok());
        assert!(correct(MOST_POSITIONS + 1).is_err());
        assert_eq!(describe(77), "I64, 0 to 76");
    }

    #[test]
    fn distinguishes_wrong_dtypes_from_wrong_values() {
        let right = correct(77).unwrap();
        assert_eq!(right.shape().dims(), [1, 77]);
        assert_eq!(check(&right, Some(77)).unwrap(), State::Correct);
        assert_eq!(check(&right, Some(78)).unwrap(), State::WrongValues);
        let floats = |values: &dyn Fn(u64) -> f32| {
            let bytes: Vec<u8> = (0..77).flat_map(|index| values(index).to_le_bytes()).collect();
            LazyTensor::owned(Dtype::F32, Shape::new([1, 77]).unwrap(), bytes).unwrap()
        };
        assert_eq!(check(&floats(&|index| index as f32), None).unwrap(), State::WrongDtype);
        assert_eq!(check(&floats(&|index| index as f32 * 0.9999), None).unwrap(), State::WrongValues);
        assert_eq!(check(&floats(&|index| index as f32 + 1.0), None).unwrap(), State::WrongValues);
        assert_eq!(missing(&right, Some(78)).unwrap(), [77]);
        assert_eq!(missing(&floats(&|index| index as f32 + 0.5), Some(77)).unwrap(), [0_u64; 0]);
        // 41 truncates to 40.
        let off = |index| if index == 41 { 40.9 } else { index as f32 };
        assert_eq!(missing(&floats(&off), Some(77)).unwrap(), [41]);
    }
}
