//! Names that files of LoRAs have besides those of tensors.

/// The metadata field in which diffusers has the configuration of PEFT for each network.
pub(crate) const ADAPTER_METADATA: &str = "lora_adapter_metadata";

/// The file beside a PEFT adapter with its configuration.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The metadata field in which a conversion keeps what the names of its output cannot express.
pub(crate) const RECORD: &str = "trinart_ckpt.lora";

/// What precedes the layers of a text encoder in diffusers and PEFT, before transformers 5.6.
pub(crate) const TEXT_MODEL: &str = "text_model.";

/// The field of [`RECORD`] with the networks of a file that are without [`TEXT_MODEL`].
pub(crate) const BARE: &str = "bare";

/// The field of [`RECORD`] with the configuration of a PEFT adapter.
pub(crate) const CONFIG: &str = "config";

/// The field of [`RECORD`] with the network of a PEFT adapter, if its keys do not tell.
pub(crate) const NETWORK: &str = "network";
