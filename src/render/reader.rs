//! Layers read from a checkpoint: each takes its sizes from the shapes of its tensors.

use candle_core::{DType, Result as CandleResult, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::error::{Error, Result};
use crate::render::kernels;
use crate::render::ops::{Conv2d, Engine, GroupNorm, LayerNorm, Linear, Padding};
use crate::render::weights::from_candle;
use crate::state_dict::StateDict;

/// A place among the keys of a checkpoint, from where a model reads its layers.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    weights: VarBuilder<'a>,
    state_dict: &'a StateDict,
    engine: &'a Engine,
    path: String,
}

impl<'a> Reader<'a> {
    /// The place before all prefixes; layers are made for this engine.
    pub(super) fn root(weights: VarBuilder<'a>, state_dict: &'a StateDict, engine: &'a Engine) -> Self {
        Reader { weights, state_dict, engine, path: String::new() }
    }

    /// Whom layers are made for.
    pub(super) fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// The place under this name.
    pub(super) fn at(&self, name: impl AsRef<str>) -> Self {
        Reader { path: self.key(name.as_ref()), ..self.clone() }
    }

    /// What the keys here begin with, without the last dot.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.state_dict.contains(&self.key(name))
    }

    /// How many places there are of one kind, numbered from 0: `name` is that of a tensor in each.
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        // No model has as many layers; the bound is for files made to keep a reader busy.
        (0..1000).take_while(|&index| self.has(&name(index))).count()
    }

    /// The dimensions of a tensor.
    pub(super) fn dims(&self, name: &str) -> Result<Vec<usize>> {
        let key = self.key(name);
        let Some(lazy) = self.state_dict.get(&key) else {
            return Err(Error::missing("the model needs it, the checkpoint has no such key").in_tensor(key));
        };
        let dims = lazy.shape().dims().iter().map(|&dim| usize::try_from(dim));
        dims.collect::<Result<_, _>>().map_err(|_| Error::limit("its shape is too large").in_tensor(key))
    }

    /// The dimensions of a tensor, as many as `N`.
    pub(super) fn dims_of<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let dims = self.dims(name)?;
        <[usize; N]>::try_from(dims).map_err(|dims| {
            Error::mismatch(format!("the model needs {N} dimensions, the checkpoint has {dims:?}"))
                .in_tensor(self.key(name))
        })
    }

    /// The tensor of this name and shape.
    pub(super) fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        loaded(self.weights.get(dims, &self.key(name)))
    }

    /// A tensor of a few values for each channel: kernels take it in F32, whatever they compute in.
    fn affine(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        match self.engine {
            Engine::Candle => self.tensor(name, dims),
            Engine::Kernels(_) => {
                loaded(self.weights.get_with_hints_dtype(dims, &self.key(name), Init::Const(0.0), DType::F32))
            }
        }
    }

    /// A convolution over `channels`, padded to keep the size of the image where its stride is 1.
    pub(super) fn conv(&self, name: &str, channels: usize) -> Result<Conv2d> {
        self.conv_with(name, channels, 1, None)
    }

    /// A convolution with this stride, and this padding where it is not the usual one.
    pub(super) fn conv_with(
        &self,
        name: &str,
        channels: usize,
        stride: usize,
        padding: Option<Padding>,
    ) -> Result<Conv2d> {
        let here = self.at(name);
        let [out, _, height, width] = here.dims_of("weight")?;
        if height != width || height % 2 == 0 || height > 7 {
            let message = format!("a convolution of {height}x{width}, the models have 1x1 and 3x3");
            return Err(Error::unsupported(message).in_tensor(here.key("weight")));
        }
        let weight = here.tensor("weight", &[out, channels, height, width])?;
        let bias = here.affine("bias", &[out])?;
        loaded(Conv2d::new(self.engine, weight, bias, stride, padding.unwrap_or(Padding::around(height / 2))))
    }

    /// A linear layer that takes `width` values. A 1x1 convolution is one as well: of both there are files.
    pub(super) fn linear(&self, name: &str, width: usize, bias: bool) -> Result<Linear> {
        let here = self.at(name);
        let dims = here.dims("weight")?;
        let out = dims.first().copied().unwrap_or_default();
        let wanted = if dims.len() == 4 { vec![out, width, 1, 1] } else { vec![out, width] };
        let weight = loaded(here.tensor("weight", &wanted)?.reshape((out, width)))?;
        let bias = if bias { Some(here.affine("bias", &[out])?) } else { None };
        loaded(Linear::new(self.engine, weight, bias))
    }

    /// One linear layer of several that take the same `width` values, one behind the other; `keys` are theirs.
    pub(super) fn linear_of_all(&self, keys: &[String], width: usize) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for key in keys {
            let here = Reader { path: key.clone(), ..self.clone() };
            let [out, _] = here.dims_of("weight")?;
            weights.push(here.tensor("weight", &[out, width])?);
            biases.push(here.affine("bias", &[out])?);
        }
        let join = |tensors: &[Tensor]| match self.engine {
            Engine::Kernels(kernels) => kernels::joined(kernels, tensors),
            Engine::Candle => Tensor::cat(tensors, 0),
        };
        let joined = join(&weights).and_then(|weight| Linear::new(self.engine, weight, Some(join(&biases)?)));
        loaded(joined)
    }

    /// A group normalisation of `channels`, in the 32 groups that all of Stable NoiseSchedule has.
    pub(super) fn group_norm(&self, name: &str, channels: usize, epsilon: f64) -> Result<GroupNorm> {
        const GROUPS: usize = 32;
        let here = self.at(name);
        if !channels.is_multiple_of(GROUPS) {
            let message = format!("{channels} channels do not make {GROUPS} groups, as Stable NoiseSchedule has them");
            return Err(Error::unsupported(message).in_tensor(here.key("weight")));
        }
        let (weight, bias) = (here.affine("weight", &[channels])?, here.affine("bias", &[channels])?);
        loaded(GroupNorm::new(self.engine, weight, bias, GROUPS, epsilon))
    }

    /// A layer normalisation over `width` values.
    pub(super) fn layer_norm(&self, name: &str, width: usize) -> Result<LayerNorm> {
        let here = self.at(name);
        let (weight, bias) = (here.affine("weight", &[width])?, here.affine("bias", &[width])?);
        loaded(LayerNorm::new(self.engine, weight, bias))
    }

    /// The key of this name here.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn loaded<T>(result: CandleResult<T>) -> Result<T> {
    result.map_err(from_candle)
}
