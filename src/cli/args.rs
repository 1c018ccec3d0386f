use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::values::{
    ComponentArgument, ComponentDtypeArgument, EmaArgument, PredictionArgument, StoredDtypeArgument, TargetArgument,
    VaeDtypeArgument,
};
use crate::formats::containers::diffusers;

/// Merge, convert, inspect and check Stable Diffusion checkpoints
///
/// Reads .safetensors files, PyTorch files (.ckpt .pt .pth .bin, zip or legacy) and diffusers folders, and detects the
/// format from the content. Never executes code from a file.
///
/// Exit codes: 0 success; 1 negative result (different, dangerous, check failed); 2 error.
#[derive(Debug, Parser)]
#[command(name = "trinart-ckpt", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Common {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Set the number of threads [default: depends on the CPU]
    ///
    /// By default, reading and writing use two threads per CPU, at most eight, and rendering uses one per CPU.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    MergeVae(MergeVae),
    Convert(Convert),
    Inspect(Inspect),
    Diff(Diff),
    Hash(Hash),
    Scan(Scan),
    #[cfg(feature = "render")]
    RenderCheck(Box<super::render::args::RenderCheck>),
}

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
pub(super) struct MergeVae {
    /// Checkpoint to merge into
    pub checkpoint: PathBuf,
    /// VAE to merge [default: the VAE beside the checkpoint, such as NAME.vae.pt]
    #[arg(long, value_name = "VAE")]
    pub vae: Option<PathBuf>,
    /// Set the dtype of the VAE [default: that of --dtype, otherwise keep]
    #[arg(long, value_enum, ignore_case = true, value_name = "DTYPE")]
    pub vae_dtype: Option<VaeDtypeArgument>,
    /// Keep the checkpoint's own tensors where the VAE lacks them
    ///
    /// Tensors under the prefix of the VAE that no Stable Diffusion VAE has are left out.
    #[arg(long)]
    pub partial: bool,
    /// Accept a VAE of another family, such as that of SD v1 for SDXL
    #[arg(long)]
    pub allow_family_mismatch: bool,
    /// Accept a VAE that its authors have withdrawn
    #[arg(long)]
    pub allow_withdrawn: bool,
    #[command(flatten)]
    pub output: OutputFile,
    #[command(flatten)]
    pub writing: Writing,
}

/// Convert checkpoints between formats and dtypes
///
/// Converts diffusers folders to single files with LDM keys, and single files to folders. Writes .safetensors files, .ckpt
/// files for torch.load(weights_only=True, mmap=True) and every WebUI, and folders that diffusers opens offline.
///
/// --dtype casts floating-point tensors only. A cast, and a folder, dequantizes scaled fp8 and bitsandbytes weights; other
/// conversions copy them with their scales. Values other than tensors and plain data (callbacks, optimizer states) are
/// left out and listed.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// Checkpoints to convert
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Set what to do with the EMA of the weights (model_ema.*) [default: keep; drop with --prune]
    #[arg(long, value_enum, value_name = "ACTION", help_heading = "Content")]
    pub ema: Option<EmaArgument>,
    /// Keep only what inference needs
    #[arg(long, help_heading = "Content")]
    pub prune: bool,
    /// Keep only one component
    ///
    /// A VAE gets keys without prefix, as WebUI loads it.
    #[arg(long, value_enum, value_name = "COMPONENT", help_heading = "Content")]
    pub component: Option<ComponentArgument>,
    /// Correct the text encoder's position_ids (I64, 0 to 76), or add missing ones
    #[arg(long, help_heading = "Content")]
    pub fix_position_ids: bool,
    /// Set the dtype of the UNet [default: that of --dtype, otherwise keep]
    #[arg(long, value_enum, ignore_case = true, value_name = "DTYPE", help_heading = "Content")]
    pub unet_dtype: Option<ComponentDtypeArgument>,
    /// Set the dtype of the VAE [default: that of --dtype, otherwise keep]
    #[arg(long, value_enum, ignore_case = true, value_name = "DTYPE", help_heading = "Content")]
    pub vae_dtype: Option<ComponentDtypeArgument>,
    /// Set the dtype of the text encoders [default: that of --dtype, otherwise keep]
    #[arg(long, value_enum, ignore_case = true, value_name = "DTYPE", help_heading = "Content")]
    pub text_encoder_dtype: Option<ComponentDtypeArgument>,
    #[command(flatten)]
    pub output: OutputFileOrFolder,
    #[command(flatten)]
    pub writing: Writing,
}

/// Show the contents of files: components, dtypes, metadata
///
/// Reads headers and the 77 position_ids, and hashes files of up to 512 MiB that may be a published file.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Files or diffusers folders to inspect
    #[arg(required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub keys: bool,
}

/// Compare two checkpoints, tensor by tensor
///
/// Compares keys, shapes, dtypes and values. The formats may differ.
///
/// Exit codes: 0 equal; 1 different; 2 error.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// First checkpoint
    pub a: PathBuf,
    /// Second checkpoint
    pub b: PathBuf,
}

/// Print the hashes of files and of their components
///
/// Prints sha256, AutoV2, AutoV3 and WebUI's legacy hash of each file, and a content hash of each component. A content hash
/// does not depend on the format: the VAE in a checkpoint has the hash of the VAE file that was merged.
#[derive(Debug, Args)]
pub(super) struct Hash {
    /// Files or diffusers folders to hash
    #[arg(required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
}

/// Scan for pickles that would run code when loaded
///
/// Scans every pickle: pickle files under any name, PyTorch files of any age, all records of a zip, members of tar files,
/// and pickles inside pickles. Executes nothing. Searches folders recursively and follows symbolic links. Scans each file
/// in a folder once.
///
/// A file is safe if its pickles use only names that trinart-ckpt vouches for, and only as it vouches for them. Other
/// files are dangerous, or unknown.
///
/// Exit codes: 0 every file is safe; 1 a file is dangerous or unknown; 2 none is, but a file could not be scanned completely.
#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Files and folders to scan
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Vouch for a name, or for the names in a file
    ///
    /// MODULE.NAME is a name such as ultralytics.nn.tasks.DetectionModel. * stands for any characters, but not in the
    /// first part. A name that is listed as dangerous must be spelled out. @FILE is a text file with one name per line,
    /// and comments after #. The option can be repeated. The report lists the names that were used.
    #[arg(long, value_name = "MODULE.NAME|@FILE")]
    pub allow: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputFile {
    /// Write to this file or diffusers folder
    ///
    /// The extension determines the format. An existing folder, or a trailing /, means diffusers.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputFileOrFolder {
    /// Write to this file or diffusers folder
    ///
    /// The extension determines the format. An existing folder, or a trailing /, means diffusers.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Option<PathBuf>,
    /// Write one output per input to this folder, named after the input; requires --to
    #[arg(long, value_name = "DIR", requires = "to")]
    pub out_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Writing {
    /// Set the output format, overriding the extension
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Option<TargetArgument>,
    /// Cast floating-point tensors to this dtype
    ///
    /// Dequantizes scaled fp8 and bitsandbytes weights. position_ids keep their dtype. The f8 dtypes need .safetensors.
    #[arg(long, value_enum, ignore_case = true, value_name = "DTYPE")]
    pub dtype: Option<StoredDtypeArgument>,
    /// Set what the UNet predicts [default: as the checkpoint shows]
    ///
    /// The tensors stay as they are. A file records it in the keys v_pred and ztsnr (SDXL), in its metadata and, for SD v1
    /// and v2, in a .yaml beside it, where WebUI, Forge and ComfyUI look; a diffusers folder in the configuration of the
    /// scheduler.
    #[arg(long, value_enum, value_name = "PREDICTION")]
    pub prediction: Option<PredictionArgument>,
    /// Clamp values that overflow the new dtype, instead of failing
    #[arg(long)]
    pub saturate: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the plan for each tensor, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Accept files with dangerous pickles, and read only their tensors
    #[arg(long)]
    pub sanitize: bool,
    /// Do not read the output back to verify it
    #[arg(long)]
    pub no_verify: bool,
    #[command(flatten)]
    pub folder: FolderWriting,
}

/// How to write a diffusers folder.
#[derive(Debug, Args)]
#[command(next_help_heading = "Diffusers folders")]
pub(super) struct FolderWriting {
    /// Write weights as .bin, for programs that do not read safetensors
    #[arg(long)]
    pub bin: bool,
    /// Add a variant to the names of the weight files
    ///
    /// For example, fp16 makes diffusion_pytorch_model.fp16.safetensors.
    #[arg(long, value_name = "NAME", value_parser = variant)]
    pub variant: Option<String>,
    /// Split weights into files of at most SIZE bytes, such as 500MB (units: kB, MB, GB) [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = shard_size)]
    pub max_shard_size: Option<u64>,
}

/// Parses a variant, which becomes part of file names.
fn variant(text: &str) -> Result<String, String> {
    diffusers::check_variant(text).map_err(|_| "expected letters, digits and _ only".to_owned())?;
    Ok(text.to_owned())
}

/// Parses a number of bytes, with an optional decimal unit.
fn shard_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let (_, unit) = text.split_at(digits.len());
    let unit = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("expected a number of bytes, or of kB, MB or GB".into()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "expected a number of bytes above 0, such as 500MB".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_accepts_the_definitions() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn parses_sizes_with_units() {
        assert_eq!(shard_size("500MB"), Ok(500_000_000));
        assert_eq!(shard_size("7"), Ok(7));
        assert!(["0", "MB", "5 apples", "99999999999GB"].iter().all(|text| shard_size(text).is_err()));
    }
}
