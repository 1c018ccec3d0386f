//! Reads the layers of a model from a checkpoint. Each layer takes its sizes from the shapes of its tensors.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use crate::errors::from_candle;
use crate::kernels;
use crate::ops::{Conv2d, Engine, GroupNorm, LayerNorm, Linear, Padding};
use crate::weights::WeightLoader;
use trinart_ckpt_formats::error::{Error, Result};

/// A key prefix of a checkpoint, with the loader for the tensors under it.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    weights: &'a WeightLoader,
    path: String,
    /// The groups of each group norm.
    groups: usize,
}

/// The groups of each group norm in all published models.
const GROUPS: usize = 32;

impl<'a> Reader<'a> {
    /// Returns a reader at the empty prefix. The layers it reads are for the loader's engine.
    pub(super) fn root(weights: &'a WeightLoader) -> Self {
        Reader { weights, path: String::new(), groups: GROUPS }
    }

    /// Returns a reader of group norms with this number of groups. `None` leaves that of the published models.
    pub(super) fn with_groups(self, groups: Option<usize>) -> Self {
        Reader { groups: groups.unwrap_or(self.groups), ..self }
    }

    /// The engine of the layers.
    pub(super) fn engine(&self) -> &'a Engine {
        self.weights.engine()
    }

    /// Returns a reader for the prefix `name` under this one.
    pub(super) fn at(&self, name: impl AsRef<str>) -> Self {
        Reader { path: self.key(name.as_ref()), ..self.clone() }
    }

    /// The prefix, without its last dot.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the checkpoint has the tensor `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.weights.state_dict().contains(&self.key(name))
    }

    /// Counts numbered prefixes, starting at 0. `name` returns the key of a tensor that exists under each of them.
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        // No model has this many layers; the bound is for hostile files.
        (0..1000).take_while(|&index| self.has(&name(index))).count()
    }

    /// Returns the dimensions of the tensor `name`.
    pub(super) fn dims(&self, name: &str) -> Result<Vec<usize>> {
        let key = self.key(name);
        let Some(lazy) = self.weights.state_dict().get(&key) else {
            return Err(Error::missing("required by the model, missing from the checkpoint").in_tensor(key));
        };
        let dims = lazy.shape().dims().iter().map(|&dim| usize::try_from(dim));
        dims.collect::<Result<_, _>>().map_err(|_| Error::limit("the shape is too large").in_tensor(key))
    }

    /// Returns the `N` dimensions of the tensor `name`. Fails if it has another rank.
    pub(super) fn dims_of<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let dims = self.dims(name)?;
        <[usize; N]>::try_from(dims).map_err(|dims| {
            Error::mismatch(format!("the model needs {N} dimensions, the checkpoint has {dims:?}"))
                .in_tensor(self.key(name))
        })
    }

    /// Loads the tensor `name`. Fails if it has another shape.
    pub(super) fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        self.weights.tensor(&self.key(name), dims)
    }

    /// Loads the matrix of a layer, possibly in half precision. Fails if it has another shape.
    fn matrix(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        self.weights.matrix(&self.key(name), dims)
    }

    /// Loads a bias or a norm's weight. Kernels always take these in F32.
    fn affine(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        match self.engine() {
            Engine::Candle => self.tensor(name, dims),
            Engine::Kernels(_) => self.weights.load(&self.key(name), Some(dims), DType::F32),
        }
    }

    /// Reads a convolution over `channels` with stride 1, padded to keep the size of the image.
    pub(super) fn conv(&self, name: &str, channels: usize) -> Result<Conv2d> {
        self.conv_with(name, channels, 1, None)
    }

    /// Reads a convolution with this stride. By default, the padding keeps the size of the image at stride 1.
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
            let message = format!("unsupported kernel size {height}x{width}: expected 1x1 or 3x3");
            return Err(Error::unsupported(message).in_tensor(here.key("weight")));
        }
        let weight = here.matrix("weight", &[out, channels, height, width])?;
        let bias = here.affine("bias", &[out])?;
        loaded(Conv2d::new(self.engine(), weight, bias, stride, padding.unwrap_or(Padding::around(height / 2))))
    }

    /// Reads a linear layer over `width` values. Some checkpoints store it as a 1x1 convolution.
    pub(super) fn linear(&self, name: &str, width: usize, bias: bool) -> Result<Linear> {
        let here = self.at(name);
        let dims = here.dims("weight")?;
        let out = *dims
            .first()
            .ok_or_else(|| Error::mismatch("expected a matrix, found a scalar").in_tensor(here.key("weight")))?;
        let wanted = if dims.len() == 4 { vec![out, width, 1, 1] } else { vec![out, width] };
        let weight = loaded(here.matrix("weight", &wanted)?.reshape((out, width)))?;
        let bias = if bias { Some(here.affine("bias", &[out])?) } else { None };
        loaded(Linear::new(self.engine(), weight, bias))
    }

    /// Reads several linear layers over the same `width` values as one layer that concatenates their outputs. `keys`
    /// are their full prefixes.
    pub(super) fn linear_of_all(&self, keys: &[String], width: usize) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for key in keys {
            let here = Reader { path: key.clone(), ..self.clone() };
            let [out, _] = here.dims_of("weight")?;
            weights.push(here.tensor("weight", &[out, width])?);
            biases.push(here.affine("bias", &[out])?);
        }
        let join = |tensors: &[Tensor]| match self.engine() {
            Engine::Kernels(kernels) => kernels::concat_rows(kernels, tensors),
            Engine::Candle => Tensor::cat(tensors, 0),
        };
        let joined = join(&weights).and_then(|weight| Linear::new(self.engine(), weight, Some(join(&biases)?)));
        loaded(joined)
    }

    /// Reads one tensor pair of three linear layers over `width` values: `{prefix}weight` of `[3 * width, width]`, and
    /// `{prefix}bias`.
    pub(super) fn linear_thirds(&self, prefix: &str, width: usize) -> Result<[Linear; 3]> {
        let weight = self.matrix(&format!("{prefix}weight"), &[3 * width, width])?;
        let bias = self.affine(&format!("{prefix}bias"), &[3 * width])?;
        let third = |index: usize| {
            let part = |all: &Tensor| all.narrow(0, index * width, width);
            loaded(part(&weight).and_then(|weight| Linear::new(self.engine(), weight, Some(part(&bias)?))))
        };
        Ok([third(0)?, third(1)?, third(2)?])
    }

    /// Reads a matrix `[width, out]` as a linear layer without a bias.
    pub(super) fn linear_of_columns(&self, name: &str, width: usize) -> Result<Linear> {
        let [_, out] = self.dims_of(name)?;
        let matrix = self.tensor(name, &[width, out])?;
        // On the CPU, because candle would compile a kernel at run time to transpose on a GPU.
        let rows = matrix.to_device(&Device::Cpu).and_then(|matrix| matrix.t()?.contiguous());
        loaded(rows.and_then(|rows| Linear::new(self.engine(), rows, None)))
    }

    /// Reads a group norm over `channels`.
    pub(super) fn group_norm(&self, name: &str, channels: usize, epsilon: f64) -> Result<GroupNorm> {
        let here = self.at(name);
        let groups = self.groups;
        if !channels.is_multiple_of(groups) {
            let message = format!("{channels} channels cannot be divided into {groups} groups");
            return Err(Error::unsupported(message).in_tensor(here.key("weight")));
        }
        let (weight, bias) = (here.affine("weight", &[channels])?, here.affine("bias", &[channels])?);
        loaded(GroupNorm::new(self.engine(), weight, bias, groups, epsilon))
    }

    /// Reads a layer norm over `width` values.
    pub(super) fn layer_norm(&self, name: &str, width: usize) -> Result<LayerNorm> {
        let here = self.at(name);
        let (weight, bias) = (here.affine("weight", &[width])?, here.affine("bias", &[width])?);
        loaded(LayerNorm::new(self.engine(), weight, bias))
    }

    /// Returns the full key of `name`.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn loaded<T>(result: CandleResult<T>) -> Result<T> {
    result.map_err(from_candle)
}
