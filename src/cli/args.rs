use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::values::{
    ComponentArgument, DtypeArgument, EmaArgument, PredictionArgument, TargetArgument, VaeDtypeArgument,
};
use crate::formats::io::parallel;

/// Merge, convert, inspect and check Stable Diffusion checkpoints
///
/// Reads .safetensors files, PyTorch files (.ckpt .pt .pth .bin, zip or legacy) and diffusers folders, and detects the
/// format from the content. Never executes anything in a file.
///
/// Exit codes: 0 success or equal; 1 different, dangerous or failed; 2 error.
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
    /// Set the number of threads
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
}

impl Common {
    pub(super) fn jobs(&self) -> usize {
        self.jobs.map_or_else(parallel::default_jobs, usize::from)
    }
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
/// Replaces the VAE of the checkpoint (first_stage_model.*) by the one from --vae, or inserts it if the checkpoint has
/// none. Everything else stays byte for byte, in the same order.
///
/// The VAE may be a file with or without the prefix first_stage_model. or vae., a whole checkpoint, or a diffusers
/// AutoencoderKL, file or folder. Training losses and averages are left out. A missing key or a differing shape is an
/// error, and nothing is written.
///
/// Without --vae, uses the sidecar beside the checkpoint: NAME.vae.pt, NAME.vae.ckpt or NAME.vae.safetensors.
#[derive(Debug, Args)]
pub(super) struct MergeVae {
    /// Checkpoint to merge into
    pub checkpoint: PathBuf,
    /// VAE to merge [default: the sidecar beside the checkpoint]
    #[arg(long, value_name = "VAE")]
    pub vae: Option<PathBuf>,
    /// Set the dtype of the VAE [default: the dtype of --dtype, otherwise keep]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub vae_dtype: Option<VaeDtypeArgument>,
    /// Keep the checkpoint's own tensors where the VAE lacks them
    ///
    /// Tensors of the VAE that the checkpoint lacks are left out.
    #[arg(long)]
    pub partial: bool,
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
/// Converts a diffusers folder to a single file with LDM keys, and a single file to a folder. Writes .safetensors files,
/// .ckpt files that torch.load(weights_only=True, mmap=True) and every WebUI load, and folders that diffusers opens
/// without a download.
///
/// --dtype casts floating-point tensors only. Values that are not plain data (callbacks, optimizer states) are left out
/// and listed.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// Checkpoints to convert
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Keep, drop or use the EMA of the weights (model_ema.*) [default: keep; drop with --prune]
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
    /// Correct or add the text encoder's position_ids: I64, 0 to 76
    #[arg(long, help_heading = "Content")]
    pub fix_position_ids: bool,
    #[command(flatten)]
    pub output: OutputFileOrFolder,
    #[command(flatten)]
    pub writing: Writing,
}

/// Show the contents of files: components, dtypes, metadata
///
/// Reads headers only, and the 77 position_ids.
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
/// Compares keys, shapes, dtypes and values, whatever the formats. Exit codes: 0 equal; 1 different; 2 error.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// First checkpoint
    pub a: PathBuf,
    /// Second checkpoint
    pub b: PathBuf,
}

/// Print the hashes of files and of their components
///
/// Prints sha256, AutoV2, AutoV3 and the legacy hash of WebUI, and a content hash for each component. Content hashes do
/// not depend on the format, so they identify the VAE in a checkpoint, or a wrong upload.
#[derive(Debug, Args)]
pub(super) struct Hash {
    /// Files or diffusers folders to hash
    #[arg(required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
}

/// Scan for pickles that would run code when loaded
///
/// Scans every pickle: bare ones, those in PyTorch files of any age, in every record of a zip, and in other pickles.
/// Executes nothing. Searches folders, but does not follow symbolic links in them.
///
/// Exit codes: 0 nothing dangerous; 1 something dangerous; 2 something could not be read.
#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Files and folders to scan
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
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
    /// Write one output per input into this folder, named after the input; needs --to
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
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<DtypeArgument>,
    /// Clamp values that overflow the new dtype, instead of failing
    #[arg(long)]
    pub saturate: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the plan for every tensor and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Accept a file with a dangerous pickle, and read only its tensors
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
    /// Set what the UNet predicts [default: epsilon; v for SD v2 and marked models]
    ///
    /// The scheduler configuration records it.
    #[arg(long, value_enum, value_name = "PREDICTION")]
    pub prediction: Option<PredictionArgument>,
    /// Write weights as .bin, for programs that do not read safetensors
    #[arg(long)]
    pub bin: bool,
    /// Add a variant to the names of the weight files
    ///
    /// For example, fp16 makes diffusion_pytorch_model.fp16.safetensors.
    #[arg(long, value_name = "NAME", value_parser = variant)]
    pub variant: Option<String>,
    /// Split weights into shards of at most SIZE bytes; accepts kB, MB and GB [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_shard_size: Option<u64>,
}

/// Parses a variant, which becomes part of file names.
fn variant(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
    if is_plain { Ok(text.to_owned()) } else { Err("expected letters, digits and _ only".into()) }
}

/// Parses a number of bytes, with an optional decimal unit.
fn size(text: &str) -> Result<u64, String> {
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
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn parses_sizes_with_units() {
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("7"), Ok(7));
        assert!(["0", "MB", "5 apples", "99999999999GB"].iter().all(|text| size(text).is_err()));
    }
}
