//! The commands that only read.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::heading::{INPUT, OUTPUT};
use crate::cli::values::{Choice, Choices, ComponentArgument, IgnoreArgument};
use crate::report::FindingCode;

/// Look through folders: a row for each file, and what is wrong
///
/// Lists the model files in folders and their subfolders, and finds damaged and dangerous files, missing and broken VAEs,
/// wrong position_ids, extensions and folders, EMA weights and training residue, orphaned and stale sidecars, and leftovers.
/// Each finding has a code, and a command that removes it if there is one. Nothing is changed. Of the root of WebUI or
/// ComfyUI, only the folders of models are looked at.
///
/// Reads headers only, unless --deep is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct Audit {
    /// Folders and files to look through
    #[arg(required = true, value_name = "PATH", help_heading = INPUT)]
    pub paths: Vec<PathBuf>,
    /// Read all values: find NaN, zeros and the same values in other files, and identify VAEs
    ///
    /// Reads each file once for sha256, AutoV2, AutoV3 and the content hashes, and remembers the results in the user's cache
    /// folder, by path, size, time and inode. The next run reads only files that have changed.
    #[arg(long, help_heading = INPUT)]
    pub deep: bool,
    /// Identify VAEs with the files in this folder; requires --deep
    ///
    /// The folders of VAEs among the paths are used too.
    #[arg(long, value_name = "DIR", requires = "deep", help_heading = INPUT, value_hint = clap::ValueHint::DirPath)]
    pub vae_dir: Vec<PathBuf>,
    /// Neither use nor change what earlier runs remember
    #[arg(long, requires = "deep", help_heading = INPUT, hide_short_help = true)]
    pub no_cache: bool,
    /// List only files with findings
    #[arg(long, help_heading = OUTPUT)]
    pub only_problems: bool,
    /// Write the report as a page for a browser, too
    ///
    /// The page is one file and loads nothing. It has previews, a table that sorts and filters, and the details of each file.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub html: Option<PathBuf>,
    /// Replace an existing page
    #[arg(long, requires = "html", help_heading = OUTPUT, hide_short_help = true)]
    pub force: bool,
    /// Report only findings with this code, such as no-vae
    ///
    /// The option can be repeated, or have several codes with commas between them.
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = finding_codes(), help_heading = OUTPUT)]
    #[arg(hide_possible_values = true)]
    pub select: Vec<FindingCode>,
    /// Leave out findings with this code
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = finding_codes(), help_heading = OUTPUT)]
    #[arg(hide_possible_values = true)]
    pub ignore: Vec<FindingCode>,
}

/// Parses the code of a finding.
fn finding_codes() -> Choices<FindingCode> {
    let choice = |&code: &FindingCode| Choice { value: code, name: code.name(), aliases: &[], help: Some(code.text()) };
    Choices(FindingCode::ALL.iter().map(choice).collect())
}

/// Show what files are, and what is in them: components, dtypes, metadata
///
/// Names what each file is, the model that it belongs to and what this program can do with it, and lists missing tensors and
/// defects. Of a LoRA, it shows ranks, scales and layers. Reads only headers and a few small tensors, unless --vae-dir or --stats is given. Files of up to 512 MiB that may
/// be a published file are hashed.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// Check that the modules and shapes of LoRAs fit this checkpoint
    ///
    /// Prints a verdict, how many modules of each network fit, and those that the checkpoint lacks or has in another shape; --keys
    /// lists all of them. Exits with 1 if a module does not fit. CHECKPOINT can be a diffusers folder, or a UNet or text encoder
    /// alone. Only headers are read.
    #[arg(long = "for", value_name = "CHECKPOINT", help_heading = INPUT)]
    pub model: Option<PathBuf>,
    /// Identify the VAE with the files in this folder [default: models/VAE of the WebUI]
    ///
    /// Without it, a file in the tree of a WebUI or ComfyUI is compared with the VAEs there. The VAE is read only if it may be
    /// equal to a file; with the option, it is always read, for a hint which one it is.
    #[arg(long, value_name = "DIR", help_heading = INPUT, value_hint = clap::ValueHint::DirPath)]
    pub vae_dir: Vec<PathBuf>,
    /// Files, diffusers folders, or folders of such
    #[arg(required = true, value_name = "PATH", help_heading = INPUT)]
    pub files: Vec<PathBuf>,
    /// List every tensor
    #[arg(long, help_heading = OUTPUT)]
    pub keys: bool,
    /// List every tensor with statistics of its values; reads all of them
    ///
    /// Prints the smallest and the largest finite value, their mean and standard deviation, and the numbers of zeros, NaN and
    /// infinite values. Of a LoRA, it also prints the norms and the largest singular value of each change, and the ranks that
    /// have most of it.
    #[arg(long, help_heading = OUTPUT)]
    pub stats: bool,
    /// Show the names of tensors as a tree, of DEPTH levels if given
    ///
    /// Names are split at their dots. Each line has the number of tensors below it, their parameters, bytes and dtypes.
    #[arg(long, value_name = "DEPTH", num_args = 0..=1, require_equals = true, help_heading = OUTPUT)]
    pub tree: Option<Option<NonZeroUsize>>,
}

/// Compare two checkpoints, or two folders of them
///
/// Compares keys, shapes, dtypes and values. The formats may differ. Of two folders, compares the files with the same path
/// below them, whatever their extensions, and finds files with the same content under other names.
#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// First checkpoint or folder
    #[arg(help_heading = INPUT)]
    pub a: PathBuf,
    /// Second checkpoint or folder
    #[arg(help_heading = INPUT)]
    pub b: PathBuf,
    /// Compare only this component: unet, vae, text-encoder, …
    ///
    /// COMPONENT is unet, vae, text-encoder, image-encoder or controlnet. The option can be repeated.
    #[arg(long, value_enum, value_name = "COMPONENT", hide_possible_values = true, help_heading = INPUT)]
    pub component: Vec<ComponentArgument>,
    /// Leave out differences: dtype, metadata, ema or schedule
    ///
    /// With dtype, tensors are equal if one has the values of the other, rounded to its dtype. Several words have commas between
    /// them.
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',', hide_possible_values = true, help_heading = INPUT)]
    pub ignore: Vec<IgnoreArgument>,
    /// List every tensor that differs, with mean, L2 norm and cosine
    ///
    /// Prints the mean of the absolute differences, the L2 norm of the differences and its ratio to that of A, the cosine of the
    /// angle between the two tensors, and whether all values are close, for each tensor that differs and for each component.
    #[arg(long, help_heading = OUTPUT)]
    pub stats: bool,
    /// Call values close that differ by R times the value of B [default: 1e-5]
    ///
    /// --rtol and --atol are added, as by allclose of NumPy.
    #[arg(long, value_name = "R", requires = "stats", value_parser = tolerance, help_heading = OUTPUT, hide_short_help = true)]
    pub rtol: Option<f64>,
    /// Call values close that differ by R [default: 1e-8]
    #[arg(long, value_name = "R", requires = "stats", value_parser = tolerance, help_heading = OUTPUT, hide_short_help = true)]
    pub atol: Option<f64>,
}

/// Parses a tolerance.
fn tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a number of 0 or more, such as 1e-3".to_owned())
}

/// Print the hashes of files and of their components
///
/// Prints sha256, AutoV2, AutoV3 and WebUI's legacy hash of each file, and a content hash of each component. A content hash
/// does not depend on the format: the VAE in a checkpoint has the hash of the VAE file that was merged. The hash "F16", of the values
/// rounded to F16, does not depend on the dtype either.
#[derive(Debug, Args)]
pub(in crate::cli) struct Hash {
    /// Identify VAEs with the files in this folder [default: models/VAE of the WebUI]
    ///
    /// Without it, a file in the tree of a WebUI or ComfyUI is compared with the VAEs there.
    #[arg(long, value_name = "DIR", help_heading = INPUT, value_hint = clap::ValueHint::DirPath)]
    pub vae_dir: Vec<PathBuf>,
    /// Files, diffusers folders, or folders of such
    #[arg(required = true, value_name = "PATH", help_heading = INPUT)]
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
#[derive(Debug, Args)]
pub(in crate::cli) struct Scan {
    /// Files and folders to scan
    #[arg(required = true, value_name = "PATH", help_heading = INPUT)]
    pub paths: Vec<PathBuf>,

    /// Vouch for a name, or for the names in a file
    ///
    /// MODULE.NAME is a name such as ultralytics.nn.tasks.DetectionModel. * stands for any characters, but not in the
    /// first part. A name that is listed as dangerous must be spelled out. @FILE is a text file with one name per line,
    /// and comments after #. The option can be repeated. The report lists the names that were used.
    #[arg(long, value_name = "MODULE.NAME|@FILE", help_heading = INPUT)]
    pub allow: Vec<String>,
}
