//! What is computed from the values of one tensor, piece by piece.

use blake3::Hasher;

use super::sigmoids::Sigmoids;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, NonFinite, Overflow, cast};

/// Bytes that all computations take before the next ones: they stay in the cache, and are many enough for the vectors of BLAKE3.
const BLOCK: usize = 64 << 10;

/// A tensor whose values are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Request<'t> {
    /// The tensor.
    pub tensor: &'t LazyTensor,
    /// Whether to round to bf16 too.
    pub rounds_to_bf16: bool,
}

/// What the values of a tensor are.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorValues {
    /// The BLAKE3 hash of the elements as they are stored, hexadecimal.
    pub exact: String,
    /// The BLAKE3 hash of the elements rounded to f16. The same as `exact` for integers.
    pub rounded: String,
    /// The BLAKE3 hash of the elements rounded to bf16, if that was requested. The same as `exact` for integers.
    pub bf16: Option<String>,
    /// NaN and infinite values.
    pub non_finite: NonFinite,
    /// Whether all elements are zero, and there is one.
    pub is_zero: bool,
    /// The sum of sigmoid(x) - 0.5 of all elements rounded to f16: model-toolkit's metric.
    pub sigmoids: f64,
    /// Whether the file has a checksum for the elements, and it is another one.
    pub is_damaged: bool,
}

/// Computes [`TensorValues`] from the elements of a tensor in pieces.
pub(super) struct Reader {
    dtype: Dtype,
    exact: Hasher,
    /// `None` where it would be the same as `exact`.
    rounded: Option<Hasher>,
    bf16: Option<Hasher>,
    is_bf16_wanted: bool,
    crc32: Option<(u32, crc32fast::Hasher)>,
    non_finite: NonFinite,
    is_zero: bool,
    sigmoids: Sigmoids,
    /// How many bytes there were.
    bytes: u64,
    /// The first bytes of an element whose other bytes are in the next piece.
    begun: Vec<u8>,
    halves: Vec<u8>,
    bfloats: Vec<u8>,
}

impl Reader {
    /// `has_stored_bytes`: whether the pieces will be the bytes of the file.
    pub(super) fn new(request: Request<'_>, has_stored_bytes: bool) -> Self {
        let Request { tensor, rounds_to_bf16 } = request;
        let dtype = tensor.dtype();
        let is_rounded = |to: Dtype| dtype != to && cast::is_supported(dtype, to);
        let crc32 = tensor.expected_crc32().filter(|_| has_stored_bytes);
        Reader {
            dtype,
            exact: Hasher::new(),
            rounded: is_rounded(Dtype::F16).then(Hasher::new),
            bf16: (rounds_to_bf16 && is_rounded(Dtype::BF16)).then(Hasher::new),
            is_bf16_wanted: rounds_to_bf16,
            crc32: crc32.map(|expected| (expected, crc32fast::Hasher::new())),
            non_finite: NonFinite::default(),
            is_zero: true,
            sigmoids: Sigmoids::default(),
            bytes: 0,
            begun: Vec::new(),
            halves: Vec::new(),
            bfloats: Vec::new(),
        }
    }

    /// Takes the next bytes, which may end within an element.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Result<()> {
        let size = self.dtype.size();
        if !self.begun.is_empty() {
            let (head, rest) = bytes.split_at((size - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(head);
            bytes = rest;
            if self.begun.len() < size {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.begun);
            self.elements(&whole)?;
        }
        let (mut whole, rest) = bytes.split_at(bytes.len() - bytes.len() % size);
        self.begun.extend_from_slice(rest);
        while !whole.is_empty() {
            // BLAKE3 is a tree: blocks that begin at multiples of their length are whole branches of it.
            let (block, rest) = whole.split_at((BLOCK - self.bytes as usize % BLOCK).min(whole.len()));
            self.elements(block)?;
            whole = rest;
        }
        Ok(())
    }

    /// Takes whole elements.
    fn elements(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.exact.update(bytes);
        if let Some((_, hasher)) = &mut self.crc32 {
            hasher.update(bytes);
        }
        self.non_finite += NonFinite::count(self.dtype, bytes);
        self.is_zero = self.is_zero && is_zero(self.dtype, bytes);
        let cast = |to: Dtype, out: &mut Vec<u8>| {
            out.resize(bytes.len() / self.dtype.size() * to.size(), 0);
            cast::cast(self.dtype, bytes, to, out, Overflow::Saturate, 0)
        };
        if let Some(bf16) = &mut self.bf16 {
            cast(Dtype::BF16, &mut self.bfloats)?;
            bf16.update(&self.bfloats);
        }
        let halves = match &mut self.rounded {
            Some(rounded) => {
                cast(Dtype::F16, &mut self.halves)?;
                rounded.update(&self.halves);
                &self.halves
            }
            None if self.dtype == Dtype::F16 => bytes,
            None => return Ok(()),
        };
        self.sigmoids.add(halves);
        Ok(())
    }

    pub(super) fn finish(self) -> TensorValues {
        let text = |hasher: Hasher| super::hexadecimal(hasher.finalize().as_bytes());
        let exact = text(self.exact);
        TensorValues {
            rounded: self.rounded.map_or_else(|| exact.clone(), text),
            bf16: self.is_bf16_wanted.then(|| self.bf16.map_or_else(|| exact.clone(), text)),
            exact,
            non_finite: self.non_finite,
            is_zero: self.is_zero && self.bytes > 0,
            sigmoids: self.sigmoids.finish(),
            is_damaged: self.crc32.is_some_and(|(expected, found)| found.finalize() != expected),
        }
    }
}

/// Whether all elements are zero. Negative zeros are, too.
fn is_zero(dtype: Dtype, bytes: &[u8]) -> bool {
    if bytes.iter().all(|&byte| byte == 0) {
        return true;
    }
    dtype.is_float()
        && bytes.chunks_exact(dtype.size()).all(|element| {
            element.split_last().is_some_and(|(last, rest)| *last & 0x7f == 0 && rest.iter().all(|&byte| byte == 0))
        })
}
