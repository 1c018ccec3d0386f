//! The text encoder's position_ids: a constant, 0 to 76, that many checkpoints carry in a broken form.
//!
//! Casting a whole checkpoint to half and merging checkpoints both turn them into floats, and merging then into wrong
//! ones; WebUI truncates what it finds (75.9975 becomes 75), ComfyUI rounds, so the same file renders differently.

use crate::error::Result;
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Overflow, Shape};

/// The last part of the key, in every layout.
const NAME: &str = "embeddings.position_ids";

/// The tensor beside it that tells how many positions there are.
const POSITIONS: &str = "embeddings.position_embedding.weight";

/// What is wrong with position_ids; nothing, if they are `Right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// I64, 0 to the last position.
    Right,
    /// The right numbers in another type.
    WrongDtype,
    /// Other numbers.
    WrongValues,
}

/// Whether a key is one of position_ids.
pub fn is_key(key: &str) -> bool {
    key == NAME || key.strip_suffix(NAME).is_some_and(|prefix| prefix.ends_with('.'))
}

/// The key of position_ids beside this position embedding; `None` for every other key.
pub fn key_beside(key: &str) -> Option<String> {
    key.strip_suffix(POSITIONS).map(|prefix| format!("{prefix}{NAME}"))
}

/// The key of the position embedding beside these position_ids; `None` for every other key.
pub fn embedding_beside(key: &str) -> Option<String> {
    Some(format!("{}{POSITIONS}", key.strip_suffix(NAME)?))
}

/// Judges position_ids beside an embedding of so many positions, where that is known. Reads them, 77 numbers.
pub fn judge(tensor: &LazyTensor, positions: Option<u64>) -> Result<State> {
    if positions.is_some_and(|positions| positions != tensor.shape().elements()) {
        return Ok(State::WrongValues);
    }
    let expected = (0..tensor.shape().elements()).map(|position| position as f64);
    let values = match tensor.dtype() {
        Dtype::I64 => tensor.to_bytes()?.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f64).collect(),
        Dtype::I32 => tensor.to_bytes()?.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        dtype if dtype.is_float() => {
            let singles = tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes()?;
            singles.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()
        }
        _ => Vec::<f64>::new(),
    };
    Ok(match (values.iter().copied().eq(expected), tensor.dtype()) {
        (true, Dtype::I64) => State::Right,
        (true, _) => State::WrongDtype,
        (false, _) => State::WrongValues,
    })
}

/// Right position_ids for so many positions: I64, shape `[1, positions]`.
pub fn right(positions: u64) -> Result<LazyTensor> {
    let bytes: Vec<u8> = (0..positions).flat_map(u64::to_le_bytes).collect();
    LazyTensor::owned(Dtype::I64, Shape::new([1, positions])?, bytes)
}

/// How many positions the position embedding of this key has.
pub fn positions(state_dict: &StateDict, ids: &str) -> Option<u64> {
    state_dict.get(&embedding_beside(ids)?)?.shape().dims().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_layout_are_known() {
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
    fn tells_right_ones_from_halves_and_from_wrong_ones() {
        let right = right(77).unwrap();
        assert_eq!(right.shape().dims(), [1, 77]);
        assert_eq!(judge(&right, Some(77)).unwrap(), State::Right);
        assert_eq!(judge(&right, Some(78)).unwrap(), State::WrongValues);
        let floats = |values: &dyn Fn(u64) -> f32| {
            let bytes: Vec<u8> = (0..77).flat_map(|index| values(index).to_le_bytes()).collect();
            LazyTensor::owned(Dtype::F32, Shape::new([1, 77]).unwrap(), bytes).unwrap()
        };
        assert_eq!(judge(&floats(&|index| index as f32), None).unwrap(), State::WrongDtype);
        assert_eq!(judge(&floats(&|index| index as f32 * 0.9999), None).unwrap(), State::WrongValues);
        assert_eq!(judge(&floats(&|index| index as f32 + 1.0), None).unwrap(), State::WrongValues);
    }
}
