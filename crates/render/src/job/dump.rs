//! Records the tensors between the stages of a render, for a comparison with another implementation.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};

use crate::errors::from_candle;
use crate::observer::Observer;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

/// An [`Observer`] that keeps every tensor.
#[derive(Default)]
pub(super) struct Dump {
    seen: Mutex<Vec<(String, Tensor)>>,
}

impl Observer for Dump {
    fn seen(&self, name: &str, tensor: &Tensor) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), tensor.clone()));
    }
}

impl Dump {
    /// Returns the recorded tensors in F32, in the order in which they were computed.
    pub(super) fn to_state_dict(&self) -> Result<StateDict> {
        let mut state_dict = StateDict::new();
        for (name, tensor) in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let values = tensor.to_dtype(DType::F32).and_then(|it| it.flatten_all()?.to_vec1::<f32>());
            let bytes: Vec<u8> = values.map_err(from_candle)?.into_iter().flat_map(f32::to_le_bytes).collect();
            let shape: Vec<u64> = tensor.dims().iter().map(|&dim| dim as u64).collect();
            let tensor = LazyTensor::owned(Dtype::F32, Shape::new(shape)?, bytes)?;
            state_dict.insert(name.as_str(), tensor)?;
        }
        Ok(state_dict)
    }
}
