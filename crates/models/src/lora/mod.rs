//! LoRAs: the names of their tensors, the modules that they change, and the scale of each change.

mod adapted;
mod base_model;
mod candidates;
mod config;
mod extent;
mod fields;
mod fit;
mod kind;
mod modules;
mod names;
mod parts;
mod places;
mod read;
mod scale;
mod singular_values;
mod spectrum;
mod spelling;
mod summary;
mod trained;

pub use adapted::AdaptedNetwork;
pub use base_model::BaseModel;
pub(crate) use config::{Adapter, Scale, agrees, to_config};
pub use extent::lacks_inpainting_channels;
pub use fields::ADAPTER_CONFIG;
pub(crate) use fields::{ADAPTER_METADATA, BARE, CONFIG, NETWORK, RECORD, TEXT_MODEL};
pub use fit::{LoraFit, NetworkFit, ShapeMismatch};
pub(crate) use kind::{DORA_SCALE, MAGNITUDE, kind};
pub use names::split_key;
pub use places::{LoraPlace, LoraPlaces};
pub(crate) use read::{Change, Lora, Part, of_network, scalar};
pub use scale::LoraScale;
pub use spectrum::Spectrum;
pub use spelling::LoraNames;
pub(crate) use spelling::Spelling;
pub use summary::{LoraModule, LoraNetwork, LoraReading, LoraSummary};
