//! How the weights of words act on the output of a text encoder.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::attention::{self, Piece};
use crate::errors::from_candle;
use trinart_ckpt_formats::error::Result;

/// WebUI's option "Emphasis mode".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Emphasis {
    /// Weights multiply the encoded tokens; then the mean of the chunk is restored.
    #[default]
    Original,
    /// Weights multiply the encoded tokens.
    NoNorm,
    /// Weights are parsed, but have no effect.
    Ignore,
    /// Brackets are text.
    None,
}

impl Emphasis {
    /// All modes.
    pub const ALL: [Emphasis; 4] = [Emphasis::Original, Emphasis::NoNorm, Emphasis::Ignore, Emphasis::None];

    /// WebUI's name.
    pub fn name(self) -> &'static str {
        match self {
            Emphasis::Original => "Original",
            Emphasis::NoNorm => "No norm",
            Emphasis::Ignore => "Ignore",
            Emphasis::None => "None",
        }
    }

    /// Splits a prompt into pieces with weights.
    pub(super) fn parse(self, text: &str) -> Result<Vec<Piece>> {
        match self {
            Emphasis::None => Ok(vec![Piece::Text(text.to_owned(), 1.0)]),
            Emphasis::Original | Emphasis::NoNorm | Emphasis::Ignore => attention::parse(text),
        }
    }
}

/// Applies weights to the hidden states of chunks, each `[1, 77, width]` with a weight for each token.
///
/// WebUI encodes all texts of a prompt that changes during sampling at once. The mean that [`Emphasis::Original`] restores
/// is that of the chunks at the same place of all these texts.
pub(crate) fn emphasize(hidden: &[Tensor], weights: &[&[f32]], emphasis: Emphasis) -> Result<Vec<Tensor>> {
    let are_one = weights.iter().all(|weights| weights.iter().all(|&weight| weight == 1.0));
    if are_one || matches!(emphasis, Emphasis::Ignore | Emphasis::None) {
        return Ok(hidden.to_vec());
    }
    let weighted = || {
        let all = hidden.iter().zip(weights).map(|(hidden, weights)| {
            let factors = Tensor::new(*weights, &Device::Cpu)?.to_device(hidden.device())?.to_dtype(hidden.dtype())?;
            hidden.broadcast_mul(&factors.reshape((1, weights.len(), 1))?)
        });
        let all = all.collect::<CandleResult<Vec<_>>>()?;
        if emphasis == Emphasis::NoNorm {
            return Ok(all);
        }
        let factor = (mean(hidden)? / mean(&all)?)?;
        all.iter().map(|weighted| weighted.broadcast_mul(&factor.to_dtype(weighted.dtype())?)).collect()
    };
    weighted().map_err(from_candle)
}

/// Returns the mean of tensors of one shape.
fn mean(tensors: &[Tensor]) -> CandleResult<Tensor> {
    let means = tensors.iter().map(|tensor| tensor.to_dtype(DType::F32)?.mean_all());
    Tensor::stack(&means.collect::<CandleResult<Vec<_>>>()?, 0)?.mean_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn keeps_the_mean_of_all_texts() {
        let hidden = Tensor::arange(1f32, 7.0, &Device::Cpu).unwrap().reshape((1, 3, 2)).unwrap();
        let same = emphasize(std::slice::from_ref(&hidden), &[&[1.0, 1.0, 1.0]], Emphasis::Original).unwrap();
        assert_eq!(values(&same[0]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let both = [hidden.clone(), hidden];
        let found = emphasize(&both, &[&[1.0, 2.0, 1.0], &[1.0, 1.0, 1.0]], Emphasis::Original).unwrap();
        // The sum of both is 42 before weighting, and 49 after.
        for (found, expected) in found.iter().zip([[1.0, 2.0, 6.0, 8.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]) {
            let expected = expected.map(|value: f32| value * 42.0 / 49.0);
            assert!(values(found).iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-5));
        }
        let found = emphasize(&both, &[&[1.0, 2.0, 1.0], &[1.0; 3]], Emphasis::NoNorm).unwrap();
        assert_eq!(values(&found[0]), [1.0, 2.0, 6.0, 8.0, 5.0, 6.0]);
        let found = emphasize(&both, &[&[1.0, 2.0, 1.0], &[1.0; 3]], Emphasis::Ignore).unwrap();
        assert_eq!(values(&found[0]), values(&both[0]));
    }

    #[test]
    fn brackets_are_text_without_emphasis() {
        let pieces = |emphasis: Emphasis| emphasis.parse("(a:1.5) BREAK b").unwrap().len();
        assert_eq!((pieces(Emphasis::Ignore), pieces(Emphasis::None)), (4, 1));
    }
}
