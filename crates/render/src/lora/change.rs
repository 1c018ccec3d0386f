//! The kinds of changes in LoRAs, as in WebUI.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use indexmap::IndexMap;

use crate::errors::from_candle;
use crate::weights;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_models::lora::lacks_inpainting_channels;

/// Maximum size of a factor in bytes. That of the largest weight of SDXL at full rank is 105 MB.
const FACTOR_BYTES: u64 = 1 << 28;

/// The tensors of all supported kinds.
const NAMES: [&str; 31] = [
    "alpha",
    "scale",
    "bias",
    "dora_scale",
    "lora_up.weight",
    "lora_down.weight",
    "lora_mid.weight",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_t1",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "w_norm",
    "b_norm",
    "weight",
    "on_input",
    "a1.weight",
    "a2.weight",
    "b1.weight",
    "b2.weight",
];

/// The change of a module's weight, and of its bias if there is a change of it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    kind: Kind,
    alpha: Option<LazyTensor>,
    scale: Option<LazyTensor>,
    /// A change of the weight that is added before scaling.
    bias: Option<LazyTensor>,
    /// The magnitudes of DoRA.
    magnitude: Option<LazyTensor>,
}

/// How the change of a weight is stored.
#[derive(Debug, Clone)]
enum Kind {
    /// LoRA, and LoCon with its Tucker core.
    LowRank { up: LazyTensor, down: LazyTensor, core: Option<LazyTensor> },
    /// LoHa: the product of two low-rank matrices, element by element.
    Hadamard([LowRankPair; 2]),
    /// LoKr: a Kronecker product.
    Kronecker { left: Factor, right: Factor },
    /// All elements.
    Full { weight: LazyTensor, bias: Option<LazyTensor> },
    /// IA3: a factor for each row, or for each column.
    Factors { factors: LazyTensor, on_input: LazyTensor },
    /// GLoRA.
    Generalized { a: [LazyTensor; 2], b: [LazyTensor; 2] },
}

#[derive(Debug, Clone)]
struct LowRankPair {
    a: LazyTensor,
    b: LazyTensor,
    core: Option<LazyTensor>,
}

#[derive(Debug, Clone)]
enum Factor {
    Whole(LazyTensor),
    LowRank(LowRankPair),
}

/// The number of ranks is the first dimension of this tensor.
fn ranks(tensor: &LazyTensor) -> Option<f64> {
    tensor.shape().dims().first().map(|ranks| *ranks as f64)
}

impl Change {
    /// Returns the change of a module from its tensors by name.
    ///
    /// Fails for a kind that is not supported.
    pub(super) fn new(parts: &IndexMap<String, LazyTensor>) -> Result<Self> {
        let get = |name: &str| parts.get(name).cloned();
        if let Some(large) = parts.values().find(|tensor| tensor.bytes() > FACTOR_BYTES) {
            return Err(Error::limit(format!("a tensor of shape {} is too large for a LoRA", large.shape())));
        }
        if let Some(unknown) = parts.keys().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(Error::unsupported(format!("a change with the tensor {unknown}, which is not supported")));
        }
        let pair = |a: &str, b: &str, core: &str| Some(LowRankPair { a: get(a)?, b: get(b)?, core: get(core) });
        let hadamard =
            || Some([pair("hada_w1_a", "hada_w1_b", "hada_t1")?, pair("hada_w2_a", "hada_w2_b", "hada_t2")?]);
        let factor = |whole: &str, a: &str, b: &str, core: &str| {
            get(whole).map(Factor::Whole).or_else(|| pair(a, b, core).map(Factor::LowRank))
        };
        let kronecker = || {
            let left = factor("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1")?;
            Some((left, factor("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")?))
        };
        let kind = if let (Some(up), Some(down)) = (get("lora_up.weight"), get("lora_down.weight")) {
            Kind::LowRank { up, down, core: get("lora_mid.weight") }
        } else if let Some(pairs) = hadamard() {
            Kind::Hadamard(pairs)
        } else if let (Some(factors), Some(on_input)) = (get("weight"), get("on_input")) {
            Kind::Factors { factors, on_input }
        } else if let Some((left, right)) = kronecker() {
            Kind::Kronecker { left, right }
        } else if let Some(weight) = get("diff") {
            Kind::Full { weight, bias: get("diff_b") }
        } else if let (Some(weight), Some(bias)) = (get("w_norm"), get("b_norm")) {
            Kind::Full { weight, bias: Some(bias) }
        } else if let (Some(a1), Some(a2), Some(b1), Some(b2)) =
            (get("a1.weight"), get("a2.weight"), get("b1.weight"), get("b2.weight"))
        {
            Kind::Generalized { a: [a1, a2], b: [b1, b2] }
        } else {
            let names: Vec<&str> = parts.keys().map(String::as_str).collect();
            let found = format!("a change of a kind that is not supported, with the tensors {}", names.join(", "));
            return Err(Error::unsupported(found));
        };
        Ok(Change { kind, alpha: get("alpha"), scale: get("scale"), bias: get("bias"), magnitude: get("dora_scale") })
    }

    /// The tensors that the change is computed from.
    pub(super) fn tensors(&self) -> Vec<&LazyTensor> {
        let mut all: Vec<&LazyTensor> = Vec::new();
        match &self.kind {
            Kind::LowRank { up, down, core } => all.extend([up, down].into_iter().chain(core)),
            Kind::Hadamard(pairs) => all.extend(pairs.iter().flat_map(LowRankPair::tensors)),
            Kind::Kronecker { left, right } => all.extend(left.tensors().into_iter().chain(right.tensors())),
            Kind::Full { weight, bias } => all.extend([weight].into_iter().chain(bias)),
            Kind::Factors { factors, on_input } => all.extend([factors, on_input]),
            Kind::Generalized { a, b } => all.extend(a.iter().chain(b)),
        }
        all.extend([&self.alpha, &self.scale, &self.bias, &self.magnitude].into_iter().flatten());
        all
    }
}

impl Change {
    /// Whether the change also changes the bias.
    pub(super) fn changes_bias(&self) -> bool {
        matches!(self.kind, Kind::Full { bias: Some(_), .. })
    }

    /// Returns the change of the bias, for a multiplier of 1.
    pub(super) fn of_bias(&self) -> Result<Option<Tensor>> {
        match &self.kind {
            Kind::Full { bias: Some(bias), .. } => load(bias).map(Some),
            _ => Ok(None),
        }
    }

    /// Returns what to add to a weight, for a multiplier of 1. Uses only `rank` of the ranks of a LoRA, if given.
    ///
    /// Fails if the change has not as many elements as the weight, apart from an inpainting model's additional channels.
    pub(super) fn of_weight(&self, weight: &Tensor, rank: Option<usize>) -> Result<Tensor> {
        let (change, ranks) = self.unscaled(weight, rank)?;
        let scale = match (&self.scale, &self.alpha, ranks) {
            (Some(scale), ..) => scalar(scale)?,
            (None, Some(alpha), Some(ranks)) => scalar(alpha)? / ranks,
            _ => 1.0,
        };
        let finish = || -> CandleResult<Tensor> {
            let mut change = change;
            if let Some(bias) = &self.bias {
                let bias = weights::tensor(bias, DType::F32, &Device::Cpu).map_err(candle_core::Error::msg)?;
                change = (&change + bias.reshape(change.dims())?)?;
            }
            let change = fit(&change, weight)?.affine(scale, 0.0)?;
            match &self.magnitude {
                Some(magnitude) => {
                    let magnitude = weights::tensor(magnitude, DType::F32, &Device::Cpu);
                    decomposed(&change, weight, &magnitude.map_err(candle_core::Error::msg)?)
                }
                None => Ok(change),
            }
        };
        finish().map_err(from_candle)
    }

    /// Returns the change before it is scaled, and the number of ranks that `alpha` refers to.
    fn unscaled(&self, weight: &Tensor, rank: Option<usize>) -> Result<(Tensor, Option<f64>)> {
        Ok(match &self.kind {
            Kind::LowRank { up, down, core } => {
                let (up_values, down_values) = (load(up)?, load(down)?);
                let change = match core {
                    Some(core) => {
                        tucker(&load(core)?, &matrix(&up_values)?.t().map_err(from_candle)?, &matrix(&down_values)?)
                    }
                    None => low_rank(&up_values, &down_values, rank),
                };
                (change.map_err(from_candle)?, ranks(down))
            }
            Kind::Hadamard([first, second]) => {
                let product = first.product()?.mul(&second.product()?).map_err(from_candle)?;
                (product, ranks(&first.b))
            }
            Kind::Kronecker { left, right } => {
                let change = kronecker(&left.value()?, &right.value()?).map_err(from_candle)?;
                (change, right.ranks().or(left.ranks()))
            }
            Kind::Full { weight, .. } => (load(weight)?, None),
            Kind::Factors { factors, on_input } => {
                let factors = load(factors)?.flatten_all().map_err(from_candle)?;
                let change = match scalar(on_input)? != 0.0 {
                    true => weight.broadcast_mul(&factors),
                    false => factors.reshape(((), 1)).and_then(|factors| weight.broadcast_mul(&factors)),
                };
                (change.map_err(from_candle)?, None)
            }
            Kind::Generalized { a: [a1, a2], b: [b1, b2] } => {
                let (a1, a2, b1, b2) = (load(a1)?, load(a2)?, load(b1)?, load(b2)?);
                let change = || b2.matmul(&b1)? + weight.matmul(&a2)?.matmul(&a1)?;
                (change().map_err(from_candle)?, None)
            }
        })
    }
}

impl LowRankPair {
    fn tensors(&self) -> impl Iterator<Item = &LazyTensor> {
        [&self.a, &self.b].into_iter().chain(&self.core)
    }

    fn product(&self) -> Result<Tensor> {
        let (a, b) = (load(&self.a)?, load(&self.b)?);
        match &self.core {
            Some(core) => tucker(&load(core)?, &a, &b),
            None => low_rank(&a, &b, None),
        }
        .map_err(from_candle)
    }
}

impl Factor {
    fn tensors(&self) -> Vec<&LazyTensor> {
        match self {
            Factor::Whole(whole) => vec![whole],
            Factor::LowRank(pair) => pair.tensors().collect(),
        }
    }

    fn value(&self) -> Result<Tensor> {
        match self {
            Factor::Whole(whole) => load(whole),
            Factor::LowRank(pair) => pair.product(),
        }
    }

    fn ranks(&self) -> Option<f64> {
        match self {
            Factor::Whole(_) => None,
            Factor::LowRank(pair) => ranks(&pair.b),
        }
    }
}

fn load(tensor: &LazyTensor) -> Result<Tensor> {
    weights::tensor(tensor, DType::F32, &Device::Cpu)
}

/// Returns the first element.
fn scalar(tensor: &LazyTensor) -> Result<f64> {
    let values = weights::values(&load(tensor)?)?;
    values.first().map(|value| f64::from(*value)).or_internal("a scalar without an element")
}

/// Returns a tensor as a matrix with the same first dimension.
fn matrix(tensor: &Tensor) -> Result<Tensor> {
    let rows = tensor.dims().first().copied().unwrap_or(1);
    tensor.reshape((rows, ())).map_err(from_candle)
}

/// Returns `a b`, in the shape of a convolution if `b` has one.
fn low_rank(a: &Tensor, b: &Tensor, rank: Option<usize>) -> CandleResult<Tensor> {
    let (rows, ranks) = (a.dim(0)?, b.dim(0)?);
    let (mut a_matrix, mut b_matrix) = (a.reshape((rows, ()))?, b.reshape((ranks, ()))?);
    if let Some(rank) = rank.filter(|rank| *rank < ranks) {
        (a_matrix, b_matrix) = (a_matrix.narrow(1, 0, rank)?, b_matrix.narrow(0, 0, rank)?);
    }
    let product = a_matrix.contiguous()?.matmul(&b_matrix.contiguous()?)?;
    let mut shape = vec![rows];
    shape.extend(b.dims().iter().skip(1));
    product.reshape(shape)
}

/// Returns `sum over i and j of core[i, j, y, x] * a[i, row] * b[j, column]`, with the shape `[rows, columns, y, x]`.
fn tucker(core: &Tensor, a: &Tensor, b: &Tensor) -> CandleResult<Tensor> {
    let (i, j, height, width) = core.dims4()?;
    let (rows, columns) = (a.dim(1)?, b.dim(1)?);
    let of_rows = a.t()?.contiguous()?.matmul(&core.reshape((i, j * height * width))?)?;
    let of_rows = of_rows.reshape((rows, j, height * width))?.transpose(1, 2)?.contiguous()?;
    let all = of_rows.reshape((rows * height * width, j))?.matmul(&b.contiguous()?)?;
    let all = all.reshape((rows, height * width, columns))?.transpose(1, 2)?.contiguous()?;
    all.reshape((rows, columns, height, width))
}

/// Returns the Kronecker product of a matrix and a matrix or a convolution.
fn kronecker(left: &Tensor, right: &Tensor) -> CandleResult<Tensor> {
    let (a, b) = left.dims2()?;
    let (c, d) = (right.dim(0)?, right.dim(1)?);
    let rest: usize = right.dims().iter().skip(2).product();
    let left = left.reshape((a, 1, b, 1))?;
    let right_factor = right.reshape((1, c, 1, d * rest))?;
    let mut shape = vec![a * c, b * d];
    shape.extend(right.dims().iter().skip(2));
    left.broadcast_mul(&right_factor)?.reshape(shape)
}

/// Returns a change in the shape of the weight. An inpainting model has five more input channels, which do not change.
fn fit(change: &Tensor, weight: &Tensor) -> CandleResult<Tensor> {
    if change.elem_count() == weight.elem_count() {
        return change.reshape(weight.dims());
    }
    match (change.dims(), weight.dims()) {
        (found, expected) if lacks_inpainting_channels(found, expected) => change.pad_with_zeros(1, 0, 5),
        (found, expected) => candle_core::bail!("the change has shape {found:?}, the weight {expected:?}"),
    }
}

/// Returns what DoRA adds to a weight: the changed weight, each input with the given magnitude.
fn decomposed(change: &Tensor, weight: &Tensor, magnitude: &Tensor) -> CandleResult<Tensor> {
    let merged = (weight + change)?;
    let (rows, columns) = (merged.dim(0)?, merged.dim(1)?);
    let squares = merged.sqr()?.reshape((rows, columns, ()))?.sum(2)?.sum(0)?;
    let rank = merged.rank();
    let mut shape = vec![1; rank];
    if let Some(place) = shape.get_mut(1) {
        *place = columns;
    }
    let norm = squares.sqrt()?.reshape(shape)?;
    // The magnitudes are of the inputs in LyCORIS, and of the outputs in some files.
    let mut dims = magnitude.dims().to_vec();
    dims.resize(rank, 1);
    let factor = magnitude.reshape(dims)?.broadcast_div(&norm)?;
    merged.broadcast_mul(&factor)? - weight
}
