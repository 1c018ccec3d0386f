//! The files beside an output: the `.yaml` that tells WebUI what the model predicts, and the configuration of a PEFT adapter.

use std::path::{Path, PathBuf};

use super::staging::Staging;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_formats::io::remote::{self, Storing};
use trinart_ckpt_formats::io::{AtomicFile, NoProgress, Overwrite};
use trinart_ckpt_formats::{Error, Result};
use trinart_ckpt_models::lora::ADAPTER_CONFIG;
use trinart_ckpt_models::parameterization::{self, Parameterization, SideYaml};
use trinart_ckpt_models::plan::{Resolved, express};
use trinart_ckpt_models::{Checkpoint, Notice, NoticeCode};

/// A text to write beside an output.
pub(super) struct SideFile {
    path: PathBuf,
    text: String,
    overwrite: Overwrite,
}

impl SideFile {
    /// Decides whether `output` gets a `.yaml`: the one of the input, if it says what the output records, or else `needed`.
    ///
    /// `is_in_new_folder`: whether the folder of the output does not exist yet.
    ///
    /// Fails if another `.yaml` is there that must not be replaced, or that contradicts the output.
    pub(super) fn plan(
        input: &Checkpoint,
        output: &Path,
        resolved: &mut Resolved,
        wanted: &Parameterization,
        needed: Option<String>,
        overwrite: Overwrite,
        is_in_new_folder: bool,
    ) -> Result<Option<Self>> {
        if !express::has_unet(&resolved.state_dict) {
            return Ok(None);
        }
        let own = match input.container() {
            Container::Diffusers => None,
            _ => SideYaml::beside(input.path())?,
        };
        let own = match own {
            Some(own) if own.marks()?.is_empty() => None,
            own => own,
        };
        let agrees = |yaml: &SideYaml| Ok(yaml.prediction()?.is_none_or(|found| found == wanted.prediction));
        let (text, left) = match own {
            Some(own) if agrees(&own)? => (Some(own.text().to_owned()), None),
            other => (needed, other),
        };
        let path = SideYaml::path_beside(output);
        let there = SideYaml::open(&path)?;
        let text = match (text, there) {
            (Some(text), Some(there)) if there.text() == text => return Ok(None),
            (Some(text), _) => text,
            (None, Some(there)) if !agrees(&there)? => {
                let found = format!("says another prediction than the output's, {}", wanted.prediction.text());
                let replacement = parameterization::configuration(&resolved.state_dict, wanted);
                match replacement {
                    Some(text) if overwrite == Overwrite::Replace => text,
                    Some(_) => return Err(Error::conflict(found).with_hint(Hint::Overwrite).in_file(path)),
                    None => return Err(Error::conflict(format!("{found}; move it away first")).in_file(path)),
                }
            }
            (None, _) => {
                resolved.notices.extend(left.map(|left| {
                    let text = format!("did not carry over {}: it says another prediction", left.path().display());
                    Notice::new(NoticeCode::YamlNotCarried, text)
                }));
                return Ok(None);
            }
        };
        if !is_in_new_folder {
            AtomicFile::check_destination(&path, overwrite)?;
        }
        Ok(Some(SideFile { path, text, overwrite }))
    }

    /// Decides whether `output` gets the configuration of a PEFT adapter beside it.
    ///
    /// Fails if another one is there that must not be replaced.
    pub(super) fn adapter(
        output: &Path,
        text: &str,
        overwrite: Overwrite,
        is_in_new_folder: bool,
    ) -> Result<Option<Self>> {
        let path = output.with_file_name(ADAPTER_CONFIG);
        if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(None);
        }
        if !is_in_new_folder {
            AtomicFile::check_destination(&path, overwrite)?;
        }
        Ok(Some(SideFile { path, text: text.to_owned(), overwrite }))
    }

    /// The path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file to the disk. It replaces the destination when it is persisted. At an address it is stored at once: a
    /// checkpoint without it would be used wrongly.
    pub(super) fn stage(&self) -> Result<Option<AtomicFile>> {
        if remote::address(&self.path).is_some() {
            let staging = Staging::new()?;
            let staged = staging.path_of(&self.path)?;
            let written = std::fs::write(&staged, &self.text);
            written.map_err(|error| Error::io("cannot write", error).in_file(&staged))?;
            let how = Storing { overwrite: self.overwrite, record: None, progress: &NoProgress };
            remote::store(&self.path, &staged, &how)?;
            return Ok(None);
        }
        AtomicFile::stage(&self.path, self.overwrite, self.text.as_bytes()).map(Some)
    }
}
