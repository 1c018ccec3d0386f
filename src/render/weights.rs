//! The socket between a state dict and models written for candle.
//!
//! A model built on [`var_builder`] takes its weights from any container, or from a plan that was never written: each
//! tensor is read when the model asks for it, and only then. Beside its elements this costs a buffer of fixed size, and
//! for a moment: for a cast a second tensor on the device, for `F8_E4M3` a second copy, for a compressed storage its
//! inflated bytes.

use std::io;
use std::sync::Arc;

use candle_core::{DType, Device, Error as CandleError, Tensor, WithDType};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use crc32fast::Hasher;
use half::{bf16, f16};

use crate::error::{Error, Kind, Result};
use crate::render::kernels::{self, Kernels};
use crate::render::weight_flaws::{self, WeightFlaw, WeightFlaws};
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor};

/// Elements read at a time; a piece is still in the second-level cache when it becomes elements.
const PIECE: usize = 32 << 10;

/// The tensor in candle, on `device`, as `dtype`.
///
/// The elements arrive in the type they are stored in (`BOOL` as `U8`) and are cast on the device, by candle's rules:
/// a value too large for a smaller float becomes infinite. A stored type that candle has no tensors of, or a
/// conversion that it does not know, is an error of kind `Unsupported` that names it.
pub fn tensor(lazy: &LazyTensor, dtype: DType, device: &Device) -> Result<Tensor> {
    cast(&stored(lazy, device)?.0, lazy, dtype)
}

fn cast(stored: &Tensor, lazy: &LazyTensor, dtype: DType) -> Result<Tensor> {
    stored.to_dtype(dtype).map_err(|error| {
        Error::unsupported(format!("no conversion from {} to {} in candle: {error}", lazy.dtype(), name(dtype)))
    })
}

/// The tensor in candle, on `device`, in the type it is stored in (`BOOL` as `U8`), and what is wrong with its values.
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
        // candle has a name for F8_E8M0, but computes nothing with it.
        Dtype::I8
        | Dtype::U16
        | Dtype::U64
        | Dtype::F8E5M2
        | Dtype::F8E8M0
        | Dtype::F8E4M3Fnuz
        | Dtype::F8E5M2Fnuz
        | Dtype::C64
        | Dtype::C128 => Err(Error::unsupported(format!("candle has no tensors of type {}", lazy.dtype()))),
    }
}

/// A model's view of the state dict: tensors by key, each with the shape that the model expects.
///
/// The prefixes of a [`VarBuilder`] and a name, joined by dots, are the key. Nothing is ever made up: a tensor that is
/// not there is an error, whatever initialisation the model would give it.
#[derive(Clone)]
pub struct WeightLoader {
    state_dict: Arc<StateDict>,
    kernels: Option<Kernels>,
    flaws: WeightFlaws,
}

impl WeightLoader {
    /// The tensors of this state dict.
    pub fn new(state_dict: Arc<StateDict>) -> Self {
        WeightLoader { state_dict, kernels: None, flaws: WeightFlaws::default() }
    }

    /// The same, noting what is wrong with the tensors that are asked for.
    pub fn noting(self, flaws: &WeightFlaws) -> Self {
        WeightLoader { flaws: flaws.clone(), ..self }
    }

    /// A builder that gives the tensors to a model on `device`, as `dtype`.
    pub fn builder(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self), dtype, device.clone())
    }

    /// A builder for the layers of kernels: on their machine, in their type. Each tensor goes there once, in the type it is
    /// stored in, and is cast there.
    pub fn builder_of(self, kernels: &Kernels) -> VarBuilder<'static> {
        let (dtype, device) = (kernels.dtype(), kernels.machine().device().clone());
        WeightLoader { kernels: Some(kernels.clone()), ..self }.builder(dtype, &device)
    }

    fn load(&self, key: &str, shape: Option<&[usize]>, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(lazy) = self.state_dict.get(key) else {
            let wanted = shape.map(|shape| format!(" with shape {shape:?}")).unwrap_or_default();
            return Err(
                Error::missing(format!("the model needs it{wanted}, the checkpoint has no such key")).in_tensor(key)
            );
        };
        let loaded = match shape {
            Some(shape) if shape != dims(lazy)? => {
                Err(Error::mismatch(format!("the model needs shape {shape:?}, the checkpoint has {}", lazy.shape())))
            }
            _ => self.read(lazy, dtype, device),
        };
        if let Ok((_, Some(flaw))) = &loaded {
            self.flaws.note(key, *flaw);
        }
        let loaded = loaded.map(|(tensor, _)| tensor);
        loaded.map_err(|error| match lazy.storage() {
            Some(storage) => error.in_tensor(key).in_file(storage.source().path()),
            None => error.in_tensor(key),
        })
    }
}

impl WeightLoader {
    fn read(&self, lazy: &LazyTensor, dtype: DType, device: &Device) -> Result<(Tensor, Option<WeightFlaw>)> {
        let Some(kernels) = &self.kernels else {
            let (stored, flaw) = stored(lazy, device)?;
            return Ok((cast(&stored, lazy, dtype)?, flaw));
        };
        let (stored, flaw) = kernels.machine().upload(lazy)?;
        Ok((kernels::cast(kernels, &stored, dtype).map_err(from_candle)?, flaw))
    }
}

impl SimpleBackend for WeightLoader {
    fn get(
        &self,
        shape: candle_core::Shape,
        key: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.load(key, Some(shape.dims()), dtype, device).map_err(into_candle)
    }

    fn get_unchecked(&self, key: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.load(key, None, dtype, device).map_err(into_candle)
    }

    fn contains_tensor(&self, key: &str) -> bool {
        self.state_dict.contains(key)
    }
}

/// A builder that gives the tensors of the state dict to a model on `device`, as `dtype`.
pub fn var_builder(state_dict: Arc<StateDict>, dtype: DType, device: &Device) -> VarBuilder<'static> {
    WeightLoader::new(state_dict).builder(dtype, device)
}

/// The library's error that a model's code handed through as candle's; candle's own as `Unsupported`, with its text.
pub fn from_candle(error: CandleError) -> Error {
    let text = error.to_string();
    #[cfg(feature = "cuda")]
    if text.contains("DriverError(") {
        return crate::render::cuda::explain(&text);
    }
    ours(error).unwrap_or_else(|| Error::unsupported(text))
}

/// All elements, row by row.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let values = tensor.to_dtype(DType::F32).and_then(|it| it.flatten_all()?.to_vec1());
    values.map_err(from_candle)
}

/// The error inside candle's variant for those of `std::io`: of its variants the one that displays nothing else and
/// gives back what was put in.
fn into_candle(error: Error) -> CandleError {
    CandleError::Io(io::Error::other(error))
}

fn ours(error: CandleError) -> Option<Error> {
    match error {
        CandleError::Io(error) => error.downcast().ok(),
        CandleError::Context { inner, .. }
        | CandleError::WithPath { inner, .. }
        | CandleError::WithBacktrace { inner, .. } => ours(*inner),
        _ => None,
    }
}

fn load<T: WithDType, const N: usize>(
    lazy: &LazyTensor,
    device: &Device,
    element: impl Fn([u8; N]) -> T,
) -> Result<(Tensor, Option<WeightFlaw>)> {
    let elements = elements(lazy, element)?;
    let flaw = weight_flaws::of_elements(&elements);
    Ok((Tensor::from_vec(elements, dims(lazy)?, device).map_err(refused)?, flaw))
}

/// As [`load`], but through bytes: the element type is one of candle's own.
fn load_f8e4m3(lazy: &LazyTensor, device: &Device) -> Result<(Tensor, Option<WeightFlaw>)> {
    let bytes = elements(lazy, u8::from_le_bytes)?;
    let flaw = weight_flaws::of_f8e4m3(&bytes);
    Ok((Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &dims(lazy)?, device).map_err(refused)?, flaw))
}

fn refused(error: CandleError) -> Error {
    Error::new(Kind::Io, format!("the device does not take the tensor: {error}"))
}

/// All elements, read piece by piece and held against the checksum that the file promises.
fn elements<T, const N: usize>(lazy: &LazyTensor, element: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    let too_large = || Error::limit(format!("{} elements do not fit into memory", lazy.shape().elements()));
    let length = usize::try_from(lazy.shape().elements()).map_err(|_| too_large())?;
    let mut elements = Vec::new();
    elements.try_reserve_exact(length).map_err(|_| too_large())?;

    let _inflated = lazy.hold()?;
    let promised = lazy.promised_crc32();
    let mut raw = promised.map(|_| Hasher::new());
    let mut piece = vec![0; PIECE.min(length) * N];
    while elements.len() < length {
        piece.truncate((length - elements.len()).saturating_mul(N));
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

/// candle's name of the type, spelled as all others in messages.
fn name(dtype: DType) -> String {
    dtype.as_str().to_uppercase()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::io::Source;
    use crate::tensor::{Extent, Overflow, Shape, Storage, View};

    fn owned(dtype: Dtype, dims: &[u64], bytes: impl Into<Vec<u8>>) -> LazyTensor {
        let bytes = bytes.into();
        let shape = Shape::new(dims).unwrap();
        assert_eq!(shape.bytes(dtype), bytes.len() as u64);
        LazyTensor::Owned { dtype, shape, bytes: bytes.into() }
    }

    fn builder(key: &str, tensor: LazyTensor) -> VarBuilder<'static> {
        let mut state_dict = StateDict::new();
        state_dict.insert(key, tensor).unwrap();
        var_builder(Arc::new(state_dict), DType::F32, &Device::Cpu)
    }

    #[test]
    fn every_dtype_loads_or_is_named() {
        for &dtype in Dtype::ALL {
            let lazy = owned(dtype, &[2, 3], vec![0; 6 * dtype.size()]);
            match tensor(&lazy, DType::F32, &Device::Cpu) {
                Ok(loaded) => {
                    assert_eq!((loaded.dims(), loaded.dtype()), (&[2, 3][..], DType::F32), "{dtype}");
                    assert_eq!(loaded.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0; 6], "{dtype}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unsupported, "{dtype}");
                    assert_eq!(error.to_string(), format!("candle has no tensors of type {dtype}"));
                }
            }
        }
    }

    #[test]
    fn pieces_join_without_a_gap() {
        let count = 2 * PIECE + 5;
        let bytes: Vec<u8> = (0..count as u32).flat_map(u32::to_le_bytes).collect();
        let loaded = tensor(&owned(Dtype::U32, &[count as u64], bytes), DType::U32, &Device::Cpu).unwrap();
        assert!(loaded.to_vec1::<u32>().unwrap().into_iter().eq(0..count as u32));
    }

    #[test]
    fn candle_widens_small_floats_as_we_do() {
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
        assert!(error.to_string().starts_with("no conversion from F64 to F6E2M3 in candle: "), "{error}");
    }

    #[test]
    fn a_wrong_checksum_is_found() {
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
    fn errors_pass_through_candle_whole() {
        let weights = builder("block.0.weight", owned(Dtype::F16, &[2, 3], [0; 12]));
        let error = weights.pp("block").pp(0).get((3, 2), "weight").unwrap_err();
        let text = "tensor block.0.weight: the model needs shape [3, 2], the checkpoint has [2, 3]";
        assert_eq!(error.to_string(), text);

        let error = from_candle(error.context("while building the model").bt());
        assert_eq!((error.to_string().as_str(), error.kind()), (text, Kind::Mismatch));
        assert_eq!(error.tensor(), Some("block.0.weight"));

        let error = from_candle(CandleError::Msg("out of memory".into()));
        assert_eq!((error.to_string().as_str(), error.kind()), ("out of memory", Kind::Unsupported));
    }

    #[test]
    fn nothing_is_made_up_for_a_missing_key() {
        let weights = builder("weight", owned(Dtype::I8, &[1], [0]));
        assert!(weights.contains_tensor("weight") && !weights.pp("a").contains_tensor("weight"));
        let error = weights.pp("a").get_with_hints(4, "weight", Init::Const(1.0)).unwrap_err();
        let text = "tensor a.weight: the model needs it with shape [4], the checkpoint has no such key";
        assert_eq!(error.to_string(), text);
        let error = weights.get_unchecked("bias").unwrap_err();
        assert_eq!(error.to_string(), "tensor bias: the model needs it, the checkpoint has no such key");
        let error = weights.get_unchecked("weight").unwrap_err();
        assert_eq!(error.to_string(), "tensor weight: candle has no tensors of type I8");
    }
}
