//! LoRAs: the names of their tensors, the modules that they change, and the scale of each change.

mod config;
mod fields;
mod modules;
mod names;
mod read;
mod spelling;

pub(crate) use config::{Adapter, Scale, agrees, to_config};
pub use fields::ADAPTER_CONFIG;
pub(crate) use fields::{ADAPTER_METADATA, BARE, CONFIG, NETWORK, RECORD, TEXT_MODEL};
pub use names::split_key;
pub(crate) use names::{DORA_SCALE, MAGNITUDE};
pub(crate) use read::{Change, Lora, Part, of_network, scalar};
pub use spelling::LoraNames;
pub(crate) use spelling::Spelling;
