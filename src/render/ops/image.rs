//! Images between the layers.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{Engine, Linear};
use crate::render::kernels::{self, Kernels};

/// An image with many channels, as the layers of an engine hand it on.
#[derive(Clone)]
pub(in crate::render) struct Image {
    layout: Layout,
}

#[derive(Clone)]
enum Layout {
    /// `[batch, channels, height, width]`.
    Planes(Tensor),
    /// `[batch, height, width, channels]`, padded to a multiple of eight: all of them but the first `channels` are
    /// zeros.
    Pixels { kernels: Kernels, pixels: Tensor, channels: usize },
}

impl Image {
    /// An image `[batch, channels, height, width]` for the layers of an engine: for kernels, of F32 in the memory of
    /// the CPU or of their machine.
    pub(in crate::render) fn new(engine: &Engine, planes: &Tensor) -> Result<Self> {
        match engine {
            Engine::Candle => Ok(Self::of_planes(planes.clone())),
            Engine::Kernels(kernels) => {
                let planes = planes.contiguous()?.to_device(kernels.machine().device())?;
                Ok(Self::of_pixels(kernels, kernels::to_pixels(kernels, &planes)?, planes.dim(1)?))
            }
        }
    }

    pub(super) fn of_planes(planes: Tensor) -> Self {
        Image { layout: Layout::Planes(planes) }
    }

    pub(super) fn of_pixels(kernels: &Kernels, pixels: Tensor, channels: usize) -> Self {
        Image { layout: Layout::Pixels { kernels: kernels.clone(), pixels, channels } }
    }

    /// `[batch, channels, height, width]`; for kernels in F32, in the CPU's memory.
    pub(in crate::render) fn to_planes(&self) -> Result<Tensor> {
        match &self.layout {
            Layout::Planes(planes) => Ok(planes.clone()),
            Layout::Pixels { kernels, pixels, channels } => {
                let (batch, height, width, _) = pixels.dims4()?;
                let shape = [batch, *channels, height, width];
                let planes = kernels.machine().empty(&shape, DType::F32)?;
                kernels::from_pixels(kernels, pixels, &planes)?;
                planes.to_device(&Device::Cpu)
            }
        }
    }

    /// As [`Image::to_planes`], into a tensor of the machine that is there already.
    pub(in crate::render) fn write_planes(&self, planes: &Tensor) -> Result<()> {
        match &self.layout {
            Layout::Planes(_) => bail!("this image is one of candle's"),
            Layout::Pixels { kernels, pixels, .. } => kernels::from_pixels(kernels, pixels, planes),
        }
    }

    /// A row of tokens, `[batch, height * width, channels]`: one for each pixel.
    pub(in crate::render) fn to_tokens(&self) -> Result<Tensor> {
        match &self.layout {
            Layout::Planes(planes) => planes.flatten_from(2)?.transpose(1, 2)?.contiguous(),
            Layout::Pixels { pixels, .. } => pixels.flatten(1, 2),
        }
    }

    /// The image that has a row of tokens as its pixels, and the size of this one.
    pub(in crate::render) fn with_tokens(&self, tokens: &Tensor) -> Result<Self> {
        match &self.layout {
            Layout::Planes(planes) => {
                let (batch, _, height, width) = planes.dims4()?;
                Ok(Self::of_planes(tokens.transpose(1, 2)?.reshape((batch, (), height, width))?))
            }
            Layout::Pixels { kernels, pixels, .. } => {
                let (batch, height, width, _) = pixels.dims4()?;
                let channels = tokens.dim(2)?;
                Ok(Self::of_pixels(kernels, tokens.reshape((batch, height, width, channels))?, channels))
            }
        }
    }

    /// What a linear layer makes of tokens, added to the pixels of this image.
    pub(in crate::render) fn plus(&self, linear: &Linear, tokens: &Tensor) -> Result<Self> {
        match &self.layout {
            Layout::Planes(planes) => {
                let added = self.with_tokens(&linear.forward(tokens)?)?;
                Ok(Self::of_planes((planes + added.planes()?)?))
            }
            Layout::Pixels { .. } => self.with_tokens(&linear.forward_onto(tokens, &self.to_tokens()?)?),
        }
    }

    /// The image of these pixels, on the machine of this one.
    pub(super) fn with_pixels(&self, pixels: Tensor, channels: usize) -> Result<Self> {
        match &self.layout {
            Layout::Pixels { kernels, .. } => Ok(Self::of_pixels(kernels, pixels, channels)),
            Layout::Planes(_) => bail!("this image is one of candle's"),
        }
    }

    /// The channels of this one, and behind them those of another. What this one has more of in height and width, below
    /// and to the right, is left out.
    pub(in crate::render) fn beside(&self, other: &Self) -> Result<Self> {
        match (&self.layout, &other.layout) {
            (Layout::Planes(a), Layout::Planes(b)) => {
                let (_, _, height, width) = b.dims4()?;
                let a = a.narrow(2, 0, height)?.narrow(3, 0, width)?;
                Ok(Self::of_planes(Tensor::cat(&[&a, b], 1)?))
            }
            (
                Layout::Pixels { kernels, pixels: a, channels: of_a },
                Layout::Pixels { pixels: b, channels: of_b, .. },
            ) => Ok(Self::of_pixels(kernels, kernels::join(kernels, a, b)?, of_a + of_b)),
            _ => bail!("images of two engines do not go together"),
        }
    }

    /// Of candle's engine.
    pub(super) fn planes(&self) -> Result<&Tensor> {
        match &self.layout {
            Layout::Planes(planes) => Ok(planes),
            Layout::Pixels { .. } => bail!("this image is one of the kernels'"),
        }
    }

    /// Of the kernels' engine.
    pub(super) fn pixels(&self) -> Result<&Tensor> {
        match &self.layout {
            Layout::Pixels { pixels, .. } => Ok(pixels),
            Layout::Planes(_) => bail!("this image is one of candle's"),
        }
    }
}
