//! Weights: tensors of a state dict, loaded into candle when a model needs them.
//!
//! A [`WeightLoader`] takes weights from any container, or from a plan without writing it to a file. It reads each
//! tensor on demand. Besides the elements, loading needs a buffer of fixed size. Some tensors temporarily need more
//! memory: a second tensor on the device for a cast, a second copy for `F8_E4M3`, and the inflated bytes of a
//! compressed storage.

use std::sync::Arc;

use candle_core::{DType, Device, Error as CandleError, Tensor, WithDType};
use crc32fast::Hasher;
use half::{bf16, f16};

use crate::errors::from_candle;
use crate::kernels;
use crate::ops::Engine;
use crate::weight_flaws::{self, WeightFlaw, WeightFlaws};
use trinart_ckpt_formats::error::{Error, Kind, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};
use trinart_ckpt_models::hyperparameters::Hyperparameters;

/// Number of elements to read at a time. A piece stays in the second-level cache until it is decoded.
const PIECE: usize = 32 << 10;

/// Loads a tensor into candle, on `device`, as `dtype`.
///
/// The elements arrive in their stored dtype (`BOOL` as `U8`) and are cast on the device by candle's rules: a value too
/// large for a smaller float becomes infinite.
///
/// Fails with [`Kind::Unsupported`] if candle has no tensors of the stored dtype, or cannot cast it to `dtype`.
pub fn tensor(lazy: &LazyTensor, dtype: DType, device: &Device) -> Result<Tensor> {
    cast(&stored(lazy, device)?.0, lazy, dtype)
}

fn cast(stored: &Tensor, lazy: &LazyTensor, dtype: DType) -> Result<Tensor> {
    stored.to_dtype(dtype).map_err(|error| {
        Error::unsupported(format!("candle cannot convert {} to {}: {error}", lazy.dtype(), name(dtype)))
    })
}

/// Loads a tensor into candle, on `device`, in its stored dtype (`BOOL` as `U8`), and returns the flaw of its values,
/// if any.
pub fn stored(lazy: &LazyTensor, device: &Device) -> Result<(Tensor, Option<WeightFlaw>)> {
    match lazy.dtype() {
        Dtype::Bool | Dtype::U8 => load(lazy, device, u8::from_le_bytes),
        Dtype::U32 => load(lazy, device, u32::from_le_bytes),
        Dtype::I16 => load(lazy, device, i16::from_le_bytes),
        Dtype::I32 => load(lazy, device, i32::from_le_bytes),
        Dtype::I64 => load(lazy, device, i64::from_le_bytes),
        Dtype::F16 => load(lazy, device, f16::from_le_bytes),
        Dtype::BF16 => load(lazy, device, bf16::from_le_bytes),
        Dtype::F32 => load(lazy, device, f32::from_le_bytes),
        Dtype::F64 => load(lazy, device, f64::from_le_bytes),
        Dtype::F8E4M3 => load_f8e4m3(lazy, device),
        // candle has no operations on these, and values of fp8 are exact in F16.
        Dtype::F8E5M2 | Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz => {
            load(&lazy.clone().cast(Dtype::F16, Overflow::Refuse)?, device, f16::from_le_bytes)
        }
        // candle names F8_E8M0, but has no operations on it.
        Dtype::I8 | Dtype::U16 | Dtype::U64 | Dtype::F8E8M0 | Dtype::C64 | Dtype::C128 => {
            Err(Error::unsupported(format!("candle has no tensors of dtype {}", lazy.dtype())))
        }
    }
}

/// Loads the weights of models from a state dict, by key and expected shape, for one [`Engine`].
///
/// A missing tensor is an error; it is never replaced by an initial value.
#[derive(Clone)]
pub struct WeightLoader {
    state_dict: Arc<StateDict>,
    engine: Engine,
    dtype: DType,
    device: Device,
    flaws: WeightFlaws,
    hyperparameters: Arc<Hyperparameters>,
}

impl WeightLoader {
    /// Returns a loader for models that run on `engine`. For candle, it loads F32 tensors into CPU memory. For kernels,
    /// it loads tensors of the kernels' dtype onto their device, and casts there.
    pub fn new(state_dict: Arc<StateDict>, engine: &Engine) -> Self {
        let (dtype, device) = match engine {
            Engine::Candle => (DType::F32, Device::Cpu),
            Engine::Kernels(kernels) => (kernels.dtype(), kernels.accelerator().device().clone()),
        };
        let (flaws, hyperparameters) = (WeightFlaws::default(), Arc::default());
        WeightLoader { state_dict, engine: engine.clone(), dtype, device, flaws, hyperparameters }
    }

    /// Loads the weights as `dtype` instead.
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Self {
        WeightLoader { dtype, ..self }
    }

    /// Adds the flaws of every loaded tensor to `flaws`.
    #[must_use]
    pub fn recording_flaws(self, flaws: &WeightFlaws) -> Self {
        WeightLoader { flaws: flaws.clone(), ..self }
    }

    /// Sets what the tensors do not show. By default, it is that of the published models.
    #[must_use]
    pub fn with_hyperparameters(self, hyperparameters: Arc<Hyperparameters>) -> Self {
        WeightLoader { hyperparameters, ..self }
    }

    /// What the tensors do not show.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The state dict that the weights come from.
    pub fn state_dict(&self) -> &StateDict {
        &self.state_dict
    }

    /// The engine that the weights are for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The dtype that [`WeightLoader::tensor`] loads.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that the weights are loaded to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Loads the tensor `key`. Fails if it is missing or has another shape.
    pub fn tensor(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        self.load(key, Some(shape), self.dtype)
    }

    /// Loads the matrix of a layer. For F32 layers on the CPU, half precision stays as it is: layers widen it when they use
    /// it. Fails like [`WeightLoader::tensor`].
    pub(crate) fn matrix(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.state_dict.get(key).map(LazyTensor::dtype);
        let dtype = match (&self.engine, self.dtype, stored) {
            (Engine::Candle, DType::F32, Some(Dtype::F16)) => DType::F16,
            (Engine::Candle, DType::F32, Some(Dtype::BF16)) => DType::BF16,
            _ => self.dtype,
        };
        self.load(key, Some(shape), dtype)
    }

    /// Loads the tensor `key` as `dtype`, and checks its shape if one is given.
    pub fn load(&self, key: &str, shape: Option<&[usize]>, dtype: DType) -> Result<Tensor> {
        let Some(lazy) = self.state_dict.get(key) else {
            let wanted = shape.map_or_else(String::new, |shape| format!(" with shape {shape:?}"));
            return Err(
                Error::missing(format!("required by the model{wanted}, missing from the checkpoint")).in_tensor(key)
            );
        };
        let loaded = match shape {
            Some(shape) if shape != dims(lazy)? => {
                Err(Error::mismatch(format!("the model needs shape {shape:?}, the checkpoint has {}", lazy.shape())))
            }
            _ => self.read(lazy, dtype),
        };
        let (tensor, flaw) = loaded.map_err(|error| match lazy.storage() {
            Some(storage) => error.in_tensor(key).in_file(storage.source().path()),
            None => error.in_tensor(key),
        })?;
        if let Some(flaw) = flaw {
            self.flaws.record(key, flaw);
        }
        Ok(tensor)
    }

    fn read(&self, lazy: &LazyTensor, dtype: DType) -> Result<(Tensor, Option<WeightFlaw>)> {
        match &self.engine {
            Engine::Candle => {
                let (stored, flaw) = stored(lazy, &self.device)?;
                Ok((cast(&stored, lazy, dtype)?, flaw))
            }
            Engine::Kernels(kernels) => {
                let (stored, flaw) = kernels.accelerator().upload(lazy)?;
                Ok((kernels::cast(kernels, &stored, dtype).map_err(from_candle)?, flaw))
            }
        }
    }
}

/// Returns all elements as f32, row by row.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let values = tensor.to_dtype(DType::F32).and_then(|it| it.flatten_all()?.to_vec1());
    values.map_err(from_candle)
}

fn load<T: WithDType, const N: usize>(
    lazy: &LazyTensor,
    device: &Device,
    element: impl Fn([u8; N]) -> T,
) -> Result<(Tensor, Option<WeightFlaw>)> {
    let elements = elements(lazy, element)?;
    let flaw = weight_flaws::of_elements(&elements);
    Ok((Tensor::from_vec(elements, dims(lazy)?, device).map_err(rejected)?, flaw))
}

/// Like [`load`], but from bytes, because candle has a separate element type for F8_E4M3.
fn load_f8e4m3(lazy: &LazyTensor, device: &Device) -> Result<(Tensor, Option<WeightFlaw>)> {
    let bytes = elements(lazy, u8::from_le_bytes)?;
    let flaw = weight_flaws::of_f8e4m3(&bytes);
    Ok((Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &dims(lazy)?, device).map_err(rejected)?, flaw))
}

fn rejected(error: CandleError) -> Error {
    Error::new(Kind::Io, format!("cannot move the tensor to the device: {error}"))
}

/// Reads all elements piece by piece, and verifies the checksum if the file has one.
fn elements<T, const N: usize>(lazy: &LazyTensor, element: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    let too_large = || Error::limit(format!("{} elements do not fit into memory", lazy.shape().elements()));
    let length = usize::try_from(lazy.shape().elements()).map_err(|_| too_large())?;
    let mut elements = Vec::new();
    elements.try_reserve_exact(length).map_err(|_| too_large())?;

    let _inflated = lazy.hold()?;
    let promised = lazy.expected_crc32();
    let mut raw = promised.map(|_| Hasher::new());
    let mut piece = vec![0; PIECE.min(length) * N];
    while elements.len() < length {
        piece.truncate(PIECE.min(length - elements.len()) * N);
        lazy.read(elements.len() as u64, &mut piece, raw.as_mut())?;
        elements.extend(piece.as_chunks().0.iter().map(|bytes| element(*bytes)));
    }
    match lazy.storage() {
        Some(storage) if raw.map(Hasher::finalize) != promised => Err(storage.damaged()),
        _ => Ok(elements),
    }
}

fn dims(lazy: &LazyTensor) -> Result<Vec<usize>> {
    let dims = lazy.shape().dims().iter().map(|&dim| usize::try_from(dim));
    dims.collect::<Result<_, _>>().map_err(|_| Error::limit(format!("shape {} is too large", lazy.shape())))
}

/// Returns candle's name of the dtype, in the spelling of all other messages.
fn name(dtype: DType) -> String {
    dtype.as_str().to_uppercase()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use trinart_ckpt_formats::io::Source;
    use trinart_ckpt_formats::tensor::{Extent, Shape, Storage, View};

    fn owned(dtype: Dtype, dims: &[u64], bytes: impl Into<Vec<u8>>) -> LazyTensor {
        let bytes = bytes.into();
        let shape = Shape::new(dims).unwrap();
        assert_eq!(shape.bytes(dtype), bytes.len() as u64);
        LazyTensor::owned(dtype, shape, bytes).unwrap()
    }

    fn loader(key: &str, tensor: LazyTensor) -> WeightLoader {
        let mut state_dict = StateDict::new();
        state_dict.insert(key, tensor).unwrap();
        WeightLoader::new(Arc::new(state_dict), &Engine::Candle)
    }

    #[test]
    fn every_dtype_loads_or_is_named_in_an_error() {
        for &dtype in Dtype::ALL {
            let lazy = owned(dtype, &[2, 3], vec![0; 6 * dtype.size()]);
            match tensor(&lazy, DType::F32, &Device::Cpu) {
                Ok(loaded) => {
                    assert_eq!((loaded.dims(), loaded.dtype()), (&[2, 3][..], DType::F32), "{dtype}");
                    assert_eq!(loaded.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0; 6], "{dtype}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unsupported, "{dtype}");
                    assert_eq!(error.to_string(), format!("candle has no tensors of dtype {dtype}"));
                }
            }
        }
    }

    #[test]
    fn joins_pieces_without_a_gap() {
        let count = 2 * PIECE + 5;
        let bytes: Vec<u8> = (0..count as u32).flat_map(u32::to_le_bytes).collect();
        let loaded = tensor(&owned(Dtype::U32, &[count as u64], bytes), DType::U32, &Device::Cpu).unwrap();
        assert!(loaded.to_vec1::<u32>().unwrap().into_iter().eq(0..count as u32));
    }

    #[test]
    fn candle_and_this_crate_widen_f8_alike() {
        let lazy = owned(Dtype::F8E4M3, &[256], (0..=255).collect::<Vec<u8>>());
        let by_candle = tensor(&lazy, DType::F32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        let by_us = tensor(&lazy.cast(Dtype::F32, Overflow::Refuse).unwrap(), DType::F32, &Device::Cpu).unwrap();
        for (byte, (theirs, ours)) in by_candle.iter().zip(by_us.to_vec1::<f32>().unwrap()).enumerate() {
            assert!(theirs.to_bits() == ours.to_bits() || theirs.is_nan() && ours.is_nan(), "{byte}: {theirs} {ours}");
        }
    }

    #[test]
    fn casts_on_the_device() {
        let doubles: Vec<u8> = [1.5_f64, -0.25, 1e6].iter().flat_map(|value| value.to_le_bytes()).collect();
        let lazy = owned(Dtype::F64, &[3], doubles);
        let halves = tensor(&lazy, DType::F16, &Device::Cpu).unwrap().to_vec1::<f16>().unwrap();
        assert_eq!(halves, [f16::from_f32(1.5), f16::from_f32(-0.25), f16::INFINITY]);
        let error = tensor(&lazy, DType::F6E2M3, &Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().starts_with("candle cannot convert F64 to F6E2M3: "), "{error}");
    }

    #[test]
    fn detects_a_wrong_checksum() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1, 2, 3, 4]).unwrap();
        let source = Source::open(file.path()).unwrap();
        let load = |crc32| {
            let storage = Storage::new(Arc::clone(&source), "data/0", Extent::Raw { offset: 0, len: 4 });
            let view = View::contiguous(Shape::new([4]).unwrap());
            let lazy = LazyTensor::stored(Arc::new(storage.with_crc32(Some(crc32))), Dtype::U8, view).unwrap();
            tensor(&lazy, DType::U8, &Device::Cpu)
        };
        assert_eq!(load(crc32fast::hash(&[1, 2, 3, 4])).unwrap().to_vec1::<u8>().unwrap(), [1, 2, 3, 4]);
        let error = load(0).unwrap_err();
        assert_eq!((error.kind(), error.file()), (Kind::Malformed, Some(file.path())));
    }

    #[test]
    fn rejects_a_tensor_of_another_shape() {
        let weights = loader("block.0.weight", owned(Dtype::F16, &[2, 3], [0; 12]));
        let error = weights.tensor("block.0.weight", &[3, 2]).unwrap_err();
        let text = "tensor block.0.weight: the model needs shape [3, 2], the checkpoint has [2, 3]";
        assert_eq!((error.to_string().as_str(), error.kind()), (text, Kind::Mismatch));
        assert_eq!(error.tensor(), Some("block.0.weight"));
    }

    #[test]
    fn reports_missing_keys_and_unsupported_dtypes() {
        let weights = loader("weight", owned(Dtype::I8, &[1], [0]));
        let error = weights.tensor("a.weight", &[4]).unwrap_err();
        let text = "tensor a.weight: required by the model with shape [4], missing from the checkpoint";
        assert_eq!((error.to_string().as_str(), error.kind()), (text, Kind::Missing));
        let error = weights.load("bias", None, DType::F32).unwrap_err();
        assert_eq!(error.to_string(), "tensor bias: required by the model, missing from the checkpoint");
        let error = weights.load("weight", None, DType::F32).unwrap_err();
        assert_eq!(error.to_string(), "tensor weight: candle has no tensors of dtype I8");
    }

    #[test]
    fn records_the_flaws_of_loaded_tensors_only() {
        let mut state_dict = StateDict::new();
        for (key, values) in
            [("good", [0.0_f32, 1.0]), ("zero", [0.0, -0.0]), ("nan", [1.0, f32::NAN]), ("not loaded", [0.0; 2])]
        {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            state_dict.insert(key, owned(Dtype::F32, &[2], bytes)).unwrap();
        }
        state_dict.insert("small", owned(Dtype::F8E4M3, &[2], vec![0x7f, 0])).unwrap();
        let flaws = WeightFlaws::default();
        let weights = WeightLoader::new(Arc::new(state_dict), &Engine::Candle).recording_flaws(&flaws);
        for key in ["good", "zero", "nan", "nan", "small"] {
            weights.load(key, None, DType::F32).unwrap();
        }
        assert_eq!(
            (flaws.keys(WeightFlaw::NotFinite), flaws.keys(WeightFlaw::Zero)),
            (vec!["nan".into(), "small".into()], vec!["zero".into()])
        );
    }
}
