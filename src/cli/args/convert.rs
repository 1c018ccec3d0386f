use std::path::PathBuf;

use clap::Args;

use super::heading::{CONTENT, INPUT};
use super::{Content, FolderWriting, OutputFileOrFolder, Reading, Writing};
use crate::cli::values::{EmaArgument, ExtractArgument, LoraNamesArgument, Replacement, dtype};
use trinart_ckpt_models::plan::ComponentDtype;
use trinart_ckpt_models::plan::patterns::{Pattern, Renaming};

/// Convert, repair and put together checkpoints
///
/// Converts diffusers folders to single files with LDM keys, and single files to folders. Writes .safetensors files, .ckpt
/// files for torch.load(weights_only=True, mmap=True) and every WebUI, and folders that diffusers opens offline.
///
/// --dtype casts floating-point tensors only. A cast, and a folder, dequantizes scaled fp8 and bitsandbytes weights; other
/// conversions copy them with their scales. Values other than tensors and plain data (callbacks, optimizer states) are
/// left out and listed.
#[derive(Debug, Args)]
pub(in crate::cli) struct Convert {
    /// Checkpoints to convert, or folders of them
    ///
    /// With --replace, there may be none: then each component needs a --replace.
    #[arg(required_unless_present = "replace", value_name = "INPUT", help_heading = INPUT)]
    pub inputs: Vec<PathBuf>,
    /// Take a component from FILE, such as vae=vae.safetensors
    ///
    /// COMPONENT is unet, vae, text-encoder, text-encoder-2 or image-encoder; the option can be repeated. FILE may hold the
    /// component alone or be a whole checkpoint, in a single file or a diffusers folder. The keys and shapes must be those of
    /// the architecture of the UNet. What the UNet predicts goes with the UNet. The EMA of a replaced UNet is dropped.
    #[arg(long, value_name = "COMPONENT=FILE", value_parser = Replacement::parse, help_heading = INPUT)]
    pub replace: Vec<Replacement>,
    /// Keep the checkpoint's own tensors where the VAE of --replace lacks them
    #[arg(long, requires = "replace", help_heading = INPUT, hide_short_help = true)]
    pub partial: bool,
    /// Accept a VAE of another family, such as that of SD v1 for SDXL
    #[arg(long, requires = "replace", help_heading = INPUT, hide_short_help = true)]
    pub allow_family_mismatch: bool,
    /// Accept a VAE that its authors have withdrawn
    #[arg(long, requires = "replace", help_heading = INPUT, hide_short_help = true)]
    pub allow_withdrawn: bool,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub output: OutputFileOrFolder,
    #[command(flatten)]
    pub writing: Writing,
    #[command(flatten)]
    pub content: Content,
    /// Cast the UNet, or keep [default: as --dtype]
    #[arg(long, value_parser = dtype::of_component(), value_name = "DTYPE", help_heading = CONTENT)]
    #[arg(hide_possible_values = true)]
    pub unet_dtype: Option<ComponentDtype>,
    /// Cast the VAE, or keep [default: as --dtype]
    #[arg(long, value_parser = dtype::of_component(), value_name = "DTYPE", help_heading = CONTENT)]
    #[arg(hide_possible_values = true)]
    pub vae_dtype: Option<ComponentDtype>,
    /// Cast the text encoders, or keep [default: as --dtype]
    #[arg(long, value_parser = dtype::of_component(), value_name = "DTYPE", help_heading = CONTENT)]
    #[arg(hide_possible_values = true)]
    pub text_encoder_dtype: Option<ComponentDtype>,
    /// Keep only what inference needs
    #[arg(long, help_heading = CONTENT)]
    pub prune: bool,
    /// Keep, drop or use the EMA weights [default: keep; drop with --prune]
    ///
    /// The EMA weights are the tensors under model_ema.
    #[arg(long, value_enum, value_name = "ACTION", help_heading = CONTENT, hide_possible_values = true)]
    pub ema: Option<EmaArgument>,
    /// Keep one component: unet, vae, text-encoder, text-encoder-2, …
    ///
    /// COMPONENT is unet, vae, text-encoder, image-encoder or controlnet, or one of the text encoders of SDXL: text-encoder-1 or
    /// text-encoder-2. The keys are those of the original code. A VAE, one text encoder of SDXL and an image encoder have no
    /// prefix, as WebUI and ComfyUI load them.
    #[arg(long, value_enum, value_name = "COMPONENT", help_heading = CONTENT)]
    #[arg(hide_possible_values = true)]
    pub component: Option<ExtractArgument>,
    /// Take only the tensors with such names
    ///
    /// In PATTERN, * stands for any characters, dots included: 'model.diffusion_model.*'. The names are those that inspect --keys
    /// lists. The option can be repeated. A pattern that is for no tensor is an error.
    #[arg(long, value_name = "PATTERN", requires = "inputs", help_heading = CONTENT)]
    pub select: Vec<Pattern>,
    /// Leave out the tensors with such names
    ///
    /// PATTERN is as for --select, which comes first.
    #[arg(long, value_name = "PATTERN", requires = "inputs", help_heading = CONTENT)]
    pub drop: Vec<Pattern>,
    /// Rename the tensors of the output file, such as 'vae.*=*'
    ///
    /// FROM is a pattern as for --select, for the names that the output would have. Each * of TO stands for what the * in the same
    /// position of FROM stands for. The option can be repeated; the first FROM that is for a name decides. A FROM that is for
    /// no tensor is an error, and so are two tensors with one name.
    #[arg(long, value_name = "FROM=TO", help_heading = CONTENT)]
    pub rename: Vec<Renaming>,
    /// Repair names, ranks and other defects that inspect lists
    ///
    /// Repairs names and prefixes that programs do not look for (VAE attention, module., model.model., clip_l., NovelAI),
    /// wrong ranks, position_ids, weights in F64, duplicates, and bytes behind the tensors. Nothing else changes. A defect
    /// that cannot be repaired is an error.
    #[arg(long, requires = "inputs", help_heading = CONTENT)]
    pub repair: bool,
    /// Give a LoRA the names of kohya, diffusers or peft
    ///
    /// Converts LoRAs for SD v1, SD v2 and SDXL, also with convolutions and DoRA; peft also LoHa. The scale of each module (alpha
    /// and rank) stays the same: alpha is a tensor in kohya's names, and metadata or adapter_config.json in the others. WebUI
    /// and ComfyUI read kohya's names. An adapter of PEFT is for one network; take it with --select.
    #[arg(long, value_enum, value_name = "NAMES", requires = "inputs", conflicts_with_all = ["replace", "component"], hide_possible_values = true, hide_short_help = true, help_heading = CONTENT)]
    pub lora_names: Option<LoraNamesArgument>,
    /// Correct or add the text encoder's position_ids
    ///
    /// Correct ones are I64, from 0 to 76.
    #[arg(long, help_heading = CONTENT, hide_short_help = true)]
    pub fix_position_ids: bool,
    #[command(flatten)]
    pub folder: FolderWriting,
}
