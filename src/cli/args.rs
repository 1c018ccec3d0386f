use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::format::Target;
use crate::io::parallel;
use crate::model::Component;
use crate::model::family::Prediction;
use crate::plan::convert::Ema;
use crate::plan::merge_vae::VaeDtype;
use crate::tensor::Dtype;

/// Keeps Stable Diffusion checkpoints in order: merges autoencoders, converts containers, shows what is inside.
///
/// Takes .safetensors files, PyTorch files (.ckpt .pt .pth .bin, zip or legacy) and diffusers folders, told apart by
/// their content. Nothing in a file is ever executed.
///
/// Exit codes: 0 done, or the answer is yes; 1 the answer is no (two files differ, a written file did not verify);
/// 2 could not run.
#[derive(Debug, Parser)]
#[command(name = "trinart-ckpt", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Threads to use
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

/// Put a separately trained autoencoder into a checkpoint
///
/// Replaces every tensor of the checkpoint's autoencoder (first_stage_model.*) by the one from --vae, or inserts it
/// where the checkpoint has none; everything else stays byte for byte, in its order. The autoencoder may have bare
/// keys, lie under first_stage_model. or vae., be nested under state_dict, be a whole
/// checkpoint, or a diffusers AutoencoderKL, file or folder; losses and training averages are left out. A missing key or a shape that differs is an error, and nothing is written.
///
/// Without --vae the sidecar beside the checkpoint is taken: NAME.vae.pt, NAME.vae.ckpt or NAME.vae.safetensors.
#[derive(Debug, Args)]
pub(super) struct MergeVae {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// The autoencoder [default: the sidecar beside the checkpoint]
    #[arg(long, value_name = "VAE")]
    pub vae: Option<PathBuf>,
    /// The type of the autoencoder's tensors [default: keep, or what --dtype says]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub vae_dtype: Option<VaeDtypeArgument>,
    /// Keep the checkpoint's own tensors where the autoencoder has none
    #[arg(long)]
    pub partial: bool,
    /// Take an autoencoder that its authors have withdrawn
    #[arg(long)]
    pub allow_withdrawn: bool,
    #[command(flatten)]
    pub output: OutputFile,
    #[command(flatten)]
    pub writing: Writing,
}

/// Move checkpoints between containers and element types
///
/// A diffusers folder becomes a single file in the names of the original code, and the other way round. Writes .safetensors files, .ckpt files that torch.load(weights_only=True, mmap=True) and every WebUI load, and folders that diffusers opens without a download.
/// --dtype changes floating tensors only. Values that are not plain (callbacks, optimizer states) are left out and
/// listed.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// The checkpoints
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// What becomes of the average of the weights (model_ema.*) [default: keep; drop with --prune]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub ema: Option<EmaArgument>,
    /// Keep what inference needs, nothing else
    #[arg(long)]
    pub prune: bool,
    /// Keep one component, nothing else; an autoencoder gets the bare keys that WebUI loads
    #[arg(long, value_enum, value_name = "COMPONENT")]
    pub component: Option<ComponentArgument>,
    /// Make the text encoder's position_ids what they have to be: I64, 0 to 76
    #[arg(long)]
    pub fix_position_ids: bool,
    #[command(flatten)]
    pub output: OutputFileOrFolder,
    #[command(flatten)]
    pub writing: Writing,
}

/// Show what is in a file: container, components, dtypes, metadata, opaque values
///
/// Reads headers only.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub keys: bool,
}

/// Compare two checkpoints, tensor by tensor, whatever their containers
///
/// Exit code 0: equal; 1: they differ.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// A checkpoint
    pub a: PathBuf,
    /// Another one
    pub b: PathBuf,
}

/// Hash files: sha256 and WebUI's short forms, and each component's content
///
/// A component's content hash is the same in every container, so it tells a wrong upload from the right one, and which
/// autoencoder a checkpoint carries.
#[derive(Debug, Args)]
pub(super) struct Hash {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// Say what files would do to whoever loads them with Python; nothing of them is run
///
/// Looks through every pickle: bare ones, those of PyTorch files of any age, every record of a zip, pickles within
/// pickles. Folders are searched; symbolic links in them are not followed. Exit code 0: nothing dangerous; 1: something
/// dangerous; 2: something could not be read.
#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct OutputFile {
    /// The file to write; its extension decides the format, a folder or a / at the end means diffusers
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct OutputFileOrFolder {
    /// The file to write; its extension decides the format, a folder or a / at the end means diffusers
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Option<PathBuf>,
    /// The folder to write into, one file for each input, named after it; needs --to
    #[arg(long, value_name = "DIR", requires = "to")]
    pub out_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Writing {
    /// The format to write, whatever the output is called
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Option<TargetArgument>,
    /// Cast the floating tensors to this type
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<DtypeArgument>,
    /// Take the largest value of the new type for values too large for it, rather than stop
    #[arg(long)]
    pub saturate: bool,
    /// Replace a file that is there already
    #[arg(long)]
    pub force: bool,
    /// Print what would be written, tensor by tensor, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take the tensors of a file whose pickle names something dangerous, and nothing else of it
    #[arg(long)]
    pub sanitize: bool,
    /// Do not read the written file again to hold it against the plan
    #[arg(long)]
    pub no_verify: bool,
    #[command(flatten)]
    pub folder: FolderWriting,
}

/// How a diffusers folder is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for diffusers folders")]
pub(super) struct FolderWriting {
    /// What the UNet predicts, for the scheduler [default: epsilon; v for SD v2 and marked models]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub prediction: Option<PredictionArgument>,
    /// Write weights as .bin, for programs that do not read safetensors
    #[arg(long)]
    pub bin: bool,
    /// Name the weights after a variant: fp16 makes diffusion_pytorch_model.fp16.safetensors
    #[arg(long, value_name = "NAME", value_parser = variant)]
    pub variant: Option<String>,
    /// Cut weights into shards of at most so many bytes; kB, MB and GB may follow [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_shard_size: Option<u64>,
}

/// A variant is part of a file's name.
fn variant(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
    if is_plain { Ok(text.to_owned()) } else { Err("letters, digits and _ only".into()) }
}

/// Bytes, in the decimal units of model pages.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("a number of bytes, or of kB, MB, GB".into()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "a number of bytes above 0, such as 500MB".into())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PredictionArgument {
    /// The noise
    Epsilon,
    /// The velocity
    V,
}

impl From<PredictionArgument> for Prediction {
    fn from(argument: PredictionArgument) -> Self {
        match argument {
            PredictionArgument::Epsilon => Prediction::Epsilon,
            PredictionArgument::V => Prediction::Velocity,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TargetArgument {
    Safetensors,
    Ckpt,
    Diffusers,
}

impl From<TargetArgument> for Target {
    fn from(argument: TargetArgument) -> Self {
        match argument {
            TargetArgument::Safetensors => Target::Safetensors,
            TargetArgument::Ckpt => Target::Torch,
            TargetArgument::Diffusers => Target::Diffusers,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArgument {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArgument> for Dtype {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::F32 => Dtype::F32,
            DtypeArgument::F16 => Dtype::F16,
            DtypeArgument::Bf16 => Dtype::BF16,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EmaArgument {
    /// It stays beside the weights
    Keep,
    /// It is left out
    Drop,
    /// It takes the place of the weights
    Use,
}

impl From<EmaArgument> for Ema {
    fn from(argument: EmaArgument) -> Self {
        match argument {
            EmaArgument::Keep => Ema::Keep,
            EmaArgument::Drop => Ema::Drop,
            EmaArgument::Use => Ema::Use,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ComponentArgument {
    Unet,
    Vae,
    TextEncoder,
}

impl From<ComponentArgument> for Component {
    fn from(argument: ComponentArgument) -> Self {
        match argument {
            ComponentArgument::Unet => Component::Unet,
            ComponentArgument::Vae => Component::Vae,
            ComponentArgument::TextEncoder => Component::TextEncoder,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum VaeDtypeArgument {
    /// Bit for bit as it is
    Keep,
    /// As the checkpoint's autoencoder has it
    Match,
    F32,
    F16,
    Bf16,
}

impl From<VaeDtypeArgument> for VaeDtype {
    fn from(argument: VaeDtypeArgument) -> Self {
        match argument {
            VaeDtypeArgument::Keep => VaeDtype::Keep,
            VaeDtypeArgument::Match => VaeDtype::Match,
            VaeDtypeArgument::F32 => VaeDtype::As(Dtype::F32),
            VaeDtypeArgument::F16 => VaeDtype::As(Dtype::F16),
            VaeDtypeArgument::Bf16 => VaeDtype::As(Dtype::BF16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
