//! Images that pass between layers.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::engine::Engine;
use super::linear::Linear;
use crate::kernels::{self, Kernels};

/// A batch of images, in the memory layout and on the device of an engine.
#[derive(Clone)]
pub(crate) struct Image {
    layout: Layout,
}

#[derive(Clone)]
enum Layout {
    /// `[batch, channels, height, width]`.
    Planes(Tensor),
    /// `[batch, height, width, channels]`, with the channels padded to a multiple of eight by zeros. `channels` is the
    /// number without the padding.
    Pixels { kernels: Kernels, pixels: Tensor, channels: usize },
}

impl Image {
    /// Converts `[batch, channels, height, width]` to the layout of an engine. For kernels, `planes` is F32 in CPU
    /// memory or on the accelerator.
    pub(crate) fn new(engine: &Engine, planes: &Tensor) -> Result<Self> {
        match engine {
            Engine::Candle => Ok(Self::from_planes(planes.clone())),
            Engine::Kernels(kernels) => {
                let planes = planes.contiguous()?.to_device(kernels.accelerator().device())?;
                Ok(Self::from_pixels(kernels, kernels::to_pixels(kernels, &planes)?, planes.dim(1)?))
            }
        }
    }

    pub(super) fn from_planes(planes: Tensor) -> Self {
        Image { layout: Layout::Planes(planes) }
    }

    pub(super) fn from_pixels(kernels: &Kernels, pixels: Tensor, channels: usize) -> Self {
        Image { layout: Layout::Pixels { kernels: kernels.clone(), pixels, channels } }
    }

    /// Returns `[batch, channels, height, width]`. For kernels, the result is F32 in CPU memory.
    pub(crate) fn to_planes(&self) -> Result<Tensor> {
        match &self.layout {
            Layout::Planes(planes) => Ok(planes.clone()),
            Layout::Pixels { kernels, pixels, channels } => {
                let (batch, height, width, _) = pixels.dims4()?;
                let shape = [batch, *channels, height, width];
                let planes = kernels.accelerator().empty(&shape, DType::F32)?;
                kernels::write_planes(kernels, pixels, &planes)?;
                planes.to_device(&Device::Cpu)
            }
        }
    }

    /// Like [`Image::to_planes`], but writes into an existing tensor of the accelerator.
    pub(crate) fn write_planes(&self, planes: &Tensor) -> Result<()> {
        match &self.layout {
            Layout::Planes(_) => bail!("internal error: the kernels received an image of candle's engine"),
            Layout::Pixels { kernels, pixels, .. } => kernels::write_planes(kernels, pixels, planes),
        }
    }

    /// Returns the pixels as tokens `[batch, height * width, channels]`.
    pub(crate) fn to_tokens(&self) -> Result<Tensor> {
        match &self.layout {
            Layout::Planes(planes) => planes.flatten_from(2)?.transpose(1, 2)?.contiguous(),
            Layout::Pixels { pixels, .. } => pixels.flatten(1, 2),
        }
    }

    /// Returns an image of this size whose pixels are `tokens`. The inverse of [`Image::to_tokens`].
    pub(crate) fn with_tokens(&self, tokens: &Tensor) -> Result<Self> {
        match &self.layout {
            Layout::Planes(planes) => {
                let (batch, _, height, width) = planes.dims4()?;
                Ok(Self::from_planes(tokens.transpose(1, 2)?.reshape((batch, (), height, width))?))
            }
            Layout::Pixels { kernels, pixels, .. } => {
                let (batch, height, width, _) = pixels.dims4()?;
                let channels = tokens.dim(2)?;
                Ok(Self::from_pixels(kernels, tokens.reshape((batch, height, width, channels))?, channels))
            }
        }
    }

    /// Returns this image plus `linear` applied to `tokens`, one for each pixel.
    pub(crate) fn add_linear(&self, linear: &Linear, tokens: &Tensor) -> Result<Self> {
        match &self.layout {
            Layout::Planes(planes) => {
                let summand = self.with_tokens(&linear.forward(tokens)?)?;
                Ok(Self::from_planes((planes + summand.planes()?)?))
            }
            Layout::Pixels { .. } => self.with_tokens(&linear.forward_add(tokens, &self.to_tokens()?)?),
        }
    }

    /// Returns an image with these pixels, on the accelerator of this image.
    pub(super) fn with_pixels(&self, pixels: Tensor, channels: usize) -> Result<Self> {
        match &self.layout {
            Layout::Pixels { kernels, .. } => Ok(Self::from_pixels(kernels, pixels, channels)),
            Layout::Planes(_) => bail!("internal error: the kernels received an image of candle's engine"),
        }
    }

    /// Concatenates the channels of two images. Crops this image at the bottom and at the right if it is larger.
    pub(crate) fn concat_channels(&self, other: &Self) -> Result<Self> {
        match (&self.layout, &other.layout) {
            (Layout::Planes(a), Layout::Planes(b)) => {
                let (_, _, height, width) = b.dims4()?;
                let a = a.narrow(2, 0, height)?.narrow(3, 0, width)?;
                Ok(Self::from_planes(Tensor::cat(&[&a, b], 1)?))
            }
            (
                Layout::Pixels { kernels, pixels: a, channels: a_channels },
                Layout::Pixels { pixels: b, channels: b_channels, .. },
            ) => Ok(Self::from_pixels(kernels, kernels::concat_channels(kernels, a, b)?, a_channels + b_channels)),
            _ => bail!("internal error: images of two engines cannot be concatenated"),
        }
    }

    /// Returns the tensor of an image of candle's engine.
    pub(super) fn planes(&self) -> Result<&Tensor> {
        match &self.layout {
            Layout::Planes(planes) => Ok(planes),
            Layout::Pixels { .. } => bail!("internal error: candle's engine received an image of the kernels"),
        }
    }

    /// Returns the tensor of an image of the kernels.
    pub(super) fn pixels(&self) -> Result<&Tensor> {
        match &self.layout {
            Layout::Pixels { pixels, .. } => Ok(pixels),
            Layout::Planes(_) => bail!("internal error: the kernels received an image of candle's engine"),
        }
    }
}
