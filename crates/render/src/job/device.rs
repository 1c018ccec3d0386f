//! Selects the device of a render: the CPU or a CUDA device.

use std::sync::Arc;

use crate::kernels::Accelerator;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::Dtype;

/// The device to render on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The first CUDA device if this build supports CUDA and there is one; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl Device {
    /// Parses `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn parse(text: &str) -> Result<Self> {
        let index = |text: &str| text.parse().ok();
        let device = match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(index).map(Device::Cuda),
        };
        device.ok_or_else(|| Error::usage(format!("unknown device {text:?}: expected auto, cpu, cuda or cuda:N")))
    }

    /// Opens the device. Fails if a CUDA device is requested explicitly and cannot be opened.
    pub(super) fn open(self) -> Result<OpenDevice> {
        match self {
            Device::Cpu => Ok(OpenDevice::cpu(None)),
            // A build without CUDA support selects the CPU without a notice.
            Device::Auto if !cfg!(feature = "cuda") => Ok(OpenDevice::cpu(None)),
            Device::Auto => Ok(OpenDevice::cuda(0).unwrap_or_else(|error| OpenDevice::cpu(Some(error.to_string())))),
            Device::Cuda(index) => OpenDevice::cuda(index),
        }
    }
}

/// An open device.
pub(super) struct OpenDevice {
    /// `None` for the CPU.
    pub(super) machine: Option<Arc<dyn Accelerator>>,
    /// The dtype that is fastest at full quality: F32 on the CPU, F16 on a GPU.
    pub(super) default_dtype: Dtype,
    pub(super) name: String,
    #[cfg(feature = "cuda")]
    card: Option<Arc<crate::cuda::Card>>,
}

impl OpenDevice {
    /// Returns the CPU. `reason` explains why `auto` chose no GPU.
    fn cpu(reason: Option<String>) -> Self {
        let name = reason.map_or_else(|| "CPU".to_owned(), |reason| format!("CPU ({reason})"));
        OpenDevice {
            machine: None,
            default_dtype: Dtype::F32,
            name,
            #[cfg(feature = "cuda")]
            card: None,
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(index: usize) -> Result<Self> {
        let card = Arc::new(crate::cuda::Card::open(index)?);
        let machine: Arc<dyn Accelerator> = Arc::clone(&card) as Arc<dyn Accelerator>;
        Ok(OpenDevice { machine: Some(machine), default_dtype: Dtype::F16, name: card.name(), card: Some(card) })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: usize) -> Result<Self> {
        let message = "this build has no CUDA support; cuda/README.md explains how to build with it";
        Err(Error::unsupported(message).with_hint(trinart_ckpt_formats::error::Hint::Cpu))
    }

    /// Describes the dtypes of weights, values and sums.
    pub(super) fn arithmetic(&self, dtype: Dtype) -> String {
        match (&self.machine, dtype) {
            (None, _) => format!("{dtype} weights, F32 values and sums, built-in CPU layers"),
            (Some(_), Dtype::F32) => {
                "F32 weights and values, F32 sums, products as three TF32 terms each (never one), \
                                      built-in CUDA kernels"
                    .to_owned()
            }
            (Some(_), _) => format!("{dtype} weights and values, F32 sums, no TF32, built-in CUDA kernels"),
        }
    }

    /// The peak memory use on the GPU in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        return self.card.as_ref().and_then(|card| card.peak_memory());
        #[cfg(not(feature = "cuda"))]
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_device_names() {
        assert_eq!(Device::parse("cuda:3").unwrap(), Device::Cuda(3));
        assert_eq!(Device::parse("cuda").unwrap(), Device::Cuda(0));
        assert_eq!(Device::parse("auto").unwrap(), Device::Auto);
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            let message = format!("unknown device {wrong:?}: expected auto, cpu, cuda or cuda:N");
            assert_eq!(Device::parse(wrong).unwrap_err().to_string(), message);
        }
    }
}
