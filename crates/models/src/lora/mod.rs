//! LoRAs: the names of their tensors, the modules that they change, and the scale of each change.

mod adapted;
mod config;
mod fields;
mod kind;
mod modules;
mod names;
mod read;
mod scale;
mod singular_values;
mod spectrum;
mod spelling;
mod summary;
mod trained;

pub use adapted::AdaptedNetwork;
pub(crate) use config::{Adapter, Scale, agrees, to_config};
pub use fields::ADAPTER_CONFIG;
pub(crate) use fields::{ADAPTER_METADATA, BARE, CONFIG, NETWORK, RECORD, TEXT_MODEL};
pub(crate) use kind::{DORA_SCALE, MAGNITUDE, kind};
pub use names::split_key;
pub(crate) use read::{Change, Lora, Part, of_network, scalar};
pub use scale::LoraScale;
pub use spectrum::Spectrum;
pub use spelling::LoraNames;
pub(crate) use spelling::Spelling;
pub use summary::{LoraModule, LoraNetwork, LoraReading, LoraSummary};
