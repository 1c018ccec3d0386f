//! The commands that only read.

use std::path::PathBuf;

use clap::Args;

use super::heading::{INPUT, OUTPUT};

/// Show the contents of files: components, dtypes, metadata
///
/// Reads headers and the 77 position_ids, and hashes files of up to 512 MiB that may be a published file.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// Files, diffusers folders, or folders of such
    #[arg(required = true, value_name = "PATH", help_heading = INPUT)]
    pub files: Vec<PathBuf>,
    /// List every tensor
    #[arg(long, help_heading = OUTPUT)]
    pub keys: bool,
}

/// Compare two checkpoints, tensor by tensor
///
/// Compares keys, shapes, dtypes and values. The formats may differ.
#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// First checkpoint
    #[arg(help_heading = INPUT)]
    pub a: PathBuf,
    /// Second checkpoint
    #[arg(help_heading = INPUT)]
    pub b: PathBuf,
}

/// Print the hashes of files and of their components
///
/// Prints sha256, AutoV2, AutoV3 and WebUI's legacy hash of each file, and a content hash of each component. A content hash
/// does not depend on the format: the VAE in a checkpoint has the hash of the VAE file that was merged.
#[derive(Debug, Args)]
pub(in crate::cli) struct Hash {
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
