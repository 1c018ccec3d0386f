//! What the UNet predicts, and the constants that come with it: one value, read from wherever a model records it.
//!
//! | source | read from |
//! |---|---|
//! | key | `v_pred`, `ztsnr`, `edm_mean`, `edm_std`, `edm_vpred.sigma_max`, `edm_vpred.sigma_min` (ComfyUI, Forge, WebUI) |
//! | config | `scheduler/scheduler_config.json` and `vae/config.json` of a diffusers folder |
//! | metadata | `modelspec.prediction_type`, `modelspec.predict_key` (ComfyUI), `ss_v_parameterization` (kohya) |
//! | yaml | `NAME.yaml` beside the checkpoint, as WebUI and Forge read it |
//! | statistic | SD v2 with 4 input channels: a norm of the UNet, as ComfyUI judges it |
//! | default | the published models of the architecture |
//!
//! If they contradict each other, the first one in this table decides, and reports list all of them.

mod claim;
mod config;
mod marks;
pub(crate) mod metadata;
mod read;
mod statistic;
mod vae_constants;
mod value;
mod yaml;
mod yaml_write;

pub use claim::{Claim, Mark, MarkSource};
pub(crate) use config::{Patch, patch_scheduler, patch_vae};
pub use marks::*;
pub use read::{read, read_tensors};
pub(crate) use statistic::judge;
pub use vae_constants::{EDM_SCALING_FACTOR, SD_SCALING_FACTOR, SDXL_SCALING_FACTOR, VaeConstants};
pub use value::Parameterization;
pub(crate) use value::Sigmas;
pub use yaml::SideYaml;
pub use yaml_write::configuration;
