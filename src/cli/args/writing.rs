//! The options of the commands that write a checkpoint.

use std::path::PathBuf;

use clap::Args;

use super::heading::{CONTENT, FOLDERS, INPUT, OUTPUT};
use crate::cli::values::{PredictionArgument, SidecarsArgument, TargetArgument, dtype};
use crate::formats::containers::diffusers;
use trinart_ckpt_formats::tensor::Dtype;

/// How to read the inputs.
#[derive(Debug, Args)]
#[command(next_help_heading = INPUT)]
pub(in crate::cli) struct Reading {
    /// Accept files with dangerous pickles, and read only their tensors
    #[arg(long)]
    pub sanitize: bool,
}

/// How to write the output.
#[derive(Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub(in crate::cli) struct Writing {
    /// Write safetensors, ckpt or diffusers [default: as the extension says]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub to: Option<TargetArgument>,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the plan, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// List what becomes of each tensor
    #[arg(short, long)]
    pub verbose: bool,
    /// Do not read the output back to verify it
    #[arg(long, hide_short_help = true)]
    pub no_verify: bool,
}

/// Where to write the output, or the outputs.
#[derive(Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub(in crate::cli) struct OutputFileOrFolder {
    /// Write to this file, or to a file in this existing folder
    ///
    /// The extension determines the format. A trailing / on a path that does not exist, or --to diffusers, makes a diffusers
    /// folder.
    #[arg(short, long, value_name = "OUTPUT", required_unless_present = "out_dir")]
    pub output: Option<PathBuf>,
    /// Write one output per input to this folder
    ///
    /// Keeps the subfolders of the inputs, and creates folders. Without --to, outputs have the names of their inputs.
    #[arg(long, value_name = "DIR", conflicts_with = "output", value_hint = clap::ValueHint::DirPath)]
    pub out_dir: Option<PathBuf>,
    /// Skip inputs whose output exists
    #[arg(long, conflicts_with_all = ["force", "update"])]
    pub skip_existing: bool,
    /// Write only what has changed since the last run with this option
    ///
    /// Compares the inputs, the outputs and the options with those of the run that wrote each output. The file
    /// .trinart-ckpt.json beside the outputs records them; in S3, the metadata of each object do.
    #[arg(long, conflicts_with = "force", hide_short_help = true)]
    pub update: bool,
    /// Use carry to copy previews, .yaml, .json, .txt and .vae.* too
    ///
    /// Copies the files beside each input that belong to it, also .civitai.info, under the name of the output, as WebUI expects them. VAEs (NAME.vae.pt) are then no inputs.
    #[arg(long, value_enum, requires = "out_dir", value_name = "ACTION", hide_possible_values = true)]
    pub sidecars: Option<SidecarsArgument>,
}

/// What the output contains.
#[derive(Debug, Args)]
#[command(next_help_heading = CONTENT)]
pub(in crate::cli) struct Content {
    /// Cast weights to f32, f16, bf16, f8e4m3 or f8e5m2 [default: keep]
    ///
    /// Casts floating-point tensors only, and dequantizes scaled fp8 and bitsandbytes weights. position_ids keep their dtype. The f8 dtypes need .safetensors.
    /// Names of torch, diffusers and WebUI are accepted too, such as fp16, half, bfloat16, float32 and float8_e4m3fn.
    #[arg(long, value_parser = dtype::stored(), value_name = "DTYPE", hide_possible_values = true)]
    pub dtype: Option<Dtype>,
    /// Set what the UNet predicts [default: as the checkpoint shows]
    ///
    /// The tensors stay as they are. A file records it in the keys v_pred and ztsnr (SDXL), in its metadata and, for SD v1
    /// and v2, in a .yaml beside it, where WebUI, Forge and ComfyUI look; a diffusers folder in the configuration of the
    /// scheduler.
    #[arg(long, value_enum, value_name = "PREDICTION", hide_short_help = true)]
    pub prediction: Option<PredictionArgument>,
    /// Set a metadata field, such as modelspec.title=NAME
    ///
    /// The option can be repeated. A .ckpt file gets the field beside its tensors, and a diffusers folder in the first of
    /// its weight files.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field, hide_short_help = true)]
    pub set_metadata: Vec<(String, String)>,
    /// Drop a metadata field, or those that begin so with * at the end
    ///
    /// The option can be repeated. 'ss_*' drops what kohya's trainer records.
    #[arg(long, value_name = "FIELD", hide_short_help = true)]
    pub drop_metadata: Vec<String>,
    /// Clamp values that overflow the new dtype, instead of failing
    #[arg(long)]
    pub saturate: bool,
    /// Fail if a tensor has NaN or infinite values
    #[arg(long, hide_short_help = true)]
    pub strict: bool,
    /// Leave out what the output format has no place for, such as tensors, instead of failing
    #[arg(long, hide_short_help = true)]
    pub allow_loss: bool,
}

/// How to write a diffusers folder.
#[derive(Debug, Args)]
#[command(next_help_heading = FOLDERS)]
pub(in crate::cli) struct FolderWriting {
    /// Write weights as .bin, for programs that do not read safetensors
    #[arg(long, hide_short_help = true)]
    pub bin: bool,
    /// Add a variant to the names of the weight files
    ///
    /// For example, fp16 makes diffusion_pytorch_model.fp16.safetensors.
    #[arg(long, value_name = "NAME", value_parser = variant, hide_short_help = true)]
    pub variant: Option<String>,
    /// Split weights into files of at most SIZE bytes, such as 500MB (units: kB, MB, GB) [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = shard_size, hide_short_help = true)]
    pub max_shard_size: Option<u64>,
}

/// Parses a metadata field and its value.
fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => Ok((field.to_owned(), value.to_owned())),
        _ => Err("expected FIELD=VALUE, such as modelspec.title=NAME".to_owned()),
    }
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

    #[test]
    fn parses_sizes_with_units() {
        assert_eq!(shard_size("500MB"), Ok(500_000_000));
        assert_eq!(shard_size("7"), Ok(7));
        assert!(["0", "MB", "5 apples", "99999999999GB"].iter().all(|text| shard_size(text).is_err()));
    }
}
