//! Where the output of each input goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::ops::inputs::Inputs;
use trinart_ckpt_formats::containers::diffusers;
use trinart_ckpt_formats::io::is_dir;
use trinart_ckpt_formats::{Error, Result, Target};

/// Returns the path of an input's output in a folder: with the name of the input, and the extension of `format` if one is
/// requested. An input whose name has no extension of a format gets that of safetensors.
///
/// Fails if the input has no name.
pub fn output_in(folder: &Path, input: &Path, format: Option<Target>) -> Result<PathBuf> {
    let no_name = || Error::usage("the path has no file name").in_file(input);
    // `.` and `..` have names, too.
    let resolved = match input.file_name() {
        Some(_) => input.to_owned(),
        None => input.canonicalize().map_err(|_| no_name())?,
    };
    let is_folder = is_dir(&resolved);
    let own = if is_folder { Some(Target::Diffusers) } else { Target::from_extension(&resolved) };
    let name = match (format.or(own), own) {
        (Some(format), Some(own)) if format == own => resolved.file_name().ok_or_else(no_name)?.to_owned(),
        (format, _) => {
            let stem = if is_folder { resolved.file_name() } else { resolved.file_stem() };
            let mut name = stem.ok_or_else(no_name)?.to_owned();
            if format != Some(Target::Diffusers) {
                name.push(".");
                name.push(format.unwrap_or(Target::Safetensors).name());
            }
            name
        }
    };
    Ok(folder.join(name))
}

/// Returns the output of each input, or an error if two inputs would be written to the same path.
pub(super) fn assign(inputs: &Inputs, folder: &Path, format: Option<Target>) -> Vec<Result<PathBuf>> {
    let outputs: Vec<_> = inputs
        .files
        .iter()
        .map(|input| {
            let below = input.relative.parent().filter(|_| input.is_found).unwrap_or(Path::new(""));
            output_in(&folder.join(below), &input.path, format)
        })
        .collect();
    let mut inputs_of: HashMap<PathBuf, Vec<&Path>> = HashMap::new();
    for (input, output) in inputs.files.iter().zip(&outputs) {
        if let Ok(output) = output {
            inputs_of.entry(output.clone()).or_default().push(&input.path);
        }
    }
    let check = |output: PathBuf| match inputs_of.get(&output).map(Vec::as_slice) {
        Some([first, second, ..]) => {
            let found = format!("{} and {} would be written to this path", first.display(), second.display());
            Err(Error::conflict(found).in_file(output))
        }
        _ => Ok(output),
    };
    outputs.into_iter().map(|output| output.and_then(check)).collect()
}

/// Returns where an output goes that the user named: into an existing folder that is no diffusers folder, under the name of
/// the input.
///
/// Fails if the input has no name.
pub fn resolve_output(output: &Path, input: Option<&Path>, format: Option<Target>) -> Result<PathBuf> {
    match input {
        Some(input) if format != Some(Target::Diffusers) && output.is_dir() && !diffusers::is_model(output) => {
            output_in(output, input, format)
        }
        _ => Ok(output.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_keep_names_unless_the_format_changes() {
        let name = |input: &str, format| output_in(Path::new("out"), Path::new(input), format).unwrap();
        assert_eq!(name("a/model.v1.ckpt", None), Path::new("out/model.v1.ckpt"));
        assert_eq!(name("a/model.v1.PT", Some(Target::Torch)), Path::new("out/model.v1.PT"));
        assert_eq!(name("a/model.v1.ckpt", Some(Target::Safetensors)), Path::new("out/model.v1.safetensors"));
        assert_eq!(name("a/model.v1.ckpt", Some(Target::Diffusers)), Path::new("out/model.v1"));
        assert_eq!(name("a/download", None), Path::new("out/download.safetensors"));
        assert!(output_in(Path::new("out"), Path::new("/"), None).is_err());
    }
}
