//! Where to compute: what was typed, and what there is.

use std::sync::Arc;

#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;
use crate::render::kernels::Machine;
use crate::tensor::Dtype;

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Device {
    /// A card where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The card of this number.
    Cuda(usize),
}

impl Device {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok();
        let found = match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(number).map(Device::Cuda),
        };
        found.ok_or_else(|| format!("no device {text:?}; there are auto, cpu, cuda and cuda:N"))
    }

    /// The place itself. What is said by name has to be there.
    pub(super) fn open(self) -> Result<OpenDevice> {
        match self {
            Device::Cpu => Ok(OpenDevice::cpu(None)),
            // A program without CUDA has no news of it.
            Device::Auto if !cfg!(feature = "cuda") => Ok(OpenDevice::cpu(None)),
            Device::Auto => Ok(OpenDevice::card(0).unwrap_or_else(|error| OpenDevice::cpu(Some(error.to_string())))),
            Device::Cuda(number) => OpenDevice::card(number),
        }
    }
}

/// A place to compute.
pub(super) struct OpenDevice {
    /// None is the CPU.
    pub(super) machine: Option<Arc<dyn Machine>>,
    /// The type of weights that is best there.
    pub(super) dtype: Dtype,
    name: String,
    #[cfg(feature = "cuda")]
    card: Option<Arc<crate::render::cuda::Card>>,
}

impl OpenDevice {
    /// `why` says why it is not a card.
    fn cpu(why: Option<String>) -> Self {
        let name = why.map_or_else(|| "CPU".to_owned(), |why| format!("CPU ({why})"));
        OpenDevice {
            machine: None,
            dtype: Dtype::F32,
            name,
            #[cfg(feature = "cuda")]
            card: None,
        }
    }

    #[cfg(feature = "cuda")]
    fn card(number: usize) -> Result<Self> {
        let card = Arc::new(crate::render::cuda::Card::open(number)?);
        let machine: Arc<dyn Machine> = Arc::clone(&card) as Arc<dyn Machine>;
        Ok(OpenDevice { machine: Some(machine), dtype: Dtype::F16, name: card.name(), card: Some(card) })
    }

    #[cfg(not(feature = "cuda"))]
    fn card(_: usize) -> Result<Self> {
        Err(Error::unsupported(
            "this program was built without CUDA, and renders on the CPU (--device cpu); cuda/README.md says how it is built with it",
        ))
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// How numbers of this type are added up here.
    pub(super) fn arithmetic(&self, dtype: Dtype) -> String {
        match (&self.machine, dtype) {
            (None, _) => format!("{dtype} weights, F32 sums, this program's own layers"),
            (Some(_), Dtype::F32) => {
                "F32 weights and values, F32 sums of products in three parts of TF32 (never of TF32 alone), this \
                 program's own kernels"
                    .to_owned()
            }
            (Some(_), _) => format!("{dtype} weights and values, F32 sums, no TF32, this program's own kernels"),
        }
    }

    /// The most memory of the card that was taken at a time.
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
    fn devices_are_told_by_their_names() {
        assert_eq!(Device::parse("cuda:3"), Ok(Device::Cuda(3)));
        assert_eq!(Device::parse("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(Device::parse("auto"), Ok(Device::Auto));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            let message = format!("no device {wrong:?}; there are auto, cpu, cuda and cuda:N");
            assert_eq!(Device::parse(wrong), Err(message));
        }
    }
}
