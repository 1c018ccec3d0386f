use std::path::PathBuf;

use clap::Args;

use super::heading::{CONTENT, INPUT};
use super::{Content, FolderWriting, OutputFileOrFolder, Reading, Writing};
use crate::cli::values::dtype;
use trinart_ckpt_models::plan::merge_vae::VaeDtype;

/// Merge a separately trained VAE into a checkpoint
///
/// Replaces the VAE of the checkpoint (first_stage_model.*), whatever its state, with the one from --vae, or inserts it if
/// the checkpoint has none. The result has exactly the keys and shapes that WebUI loads. All other tensors stay
/// byte-identical, in the same order.
///
/// The VAE may be a VAE file (keys with the prefix first_stage_model. or vae., or without), a whole checkpoint, or a
/// diffusers AutoencoderKL, as a file or a folder. Training losses and averages are left out. If a key is missing, a shape
/// does not fit or the VAE belongs to another family of models, fails and writes nothing.
///
/// Without --vae, uses the VAE beside the checkpoint: the first of NAME.vae.ckpt, NAME.vae.pt and NAME.vae.safetensors
/// that exists.
#[derive(Debug, Args)]
pub(in crate::cli) struct MergeVae {
    /// Checkpoints to merge into, or folders of them
    ///
    /// In folders, skips files that are no Stable Diffusion checkpoints and, without --vae, checkpoints without a VAE
    /// beside them.
    #[arg(required = true, value_name = "CHECKPOINT", help_heading = INPUT)]
    pub checkpoints: Vec<PathBuf>,
    /// Merge this VAE [default: the one beside each checkpoint]
    #[arg(long, value_name = "VAE", help_heading = INPUT)]
    pub vae: Option<PathBuf>,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub output: OutputFileOrFolder,
    #[command(flatten)]
    pub writing: Writing,
    #[command(flatten)]
    pub content: Content,
    /// Cast the VAE to a dtype, or use keep or match [default: as --dtype]
    ///
    /// keep leaves the tensors of the VAE bit-identical, and match uses the dtypes of the VAE that the checkpoint has.
    #[arg(long, value_parser = dtype::of_merged_vae(), value_name = "DTYPE", help_heading = CONTENT)]
    #[arg(hide_possible_values = true)]
    pub vae_dtype: Option<VaeDtype>,
    /// Keep the checkpoint's own tensors where the VAE lacks them
    ///
    /// Tensors under the prefix of the VAE that no Stable Diffusion VAE has are left out.
    #[arg(long, help_heading = CONTENT)]
    pub partial: bool,
    /// Accept a VAE of another family, such as that of SD v1 for SDXL
    #[arg(long, help_heading = INPUT)]
    pub allow_family_mismatch: bool,
    /// Accept a VAE that its authors have withdrawn
    #[arg(long, help_heading = INPUT)]
    pub allow_withdrawn: bool,
    #[command(flatten)]
    pub folder: FolderWriting,
}
