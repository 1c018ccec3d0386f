//! How the picture of `--like` was made, as far as it says so and as far as that can be done again.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::args::size;
use crate::error::{Error, Result};
use crate::render::checks::Check;
use crate::render::infotext::Infotext;
use crate::render::sampler::Sampler;
use crate::render::schedule::ScheduleType;

/// The field of the type that weights were rounded to, and that of the prompt's syntax: of this program alone.
pub(super) const WEIGHT_DTYPE: &str = "Weight dtype";
pub(super) const PROMPT_SYNTAX: &str = "Prompt syntax";

/// Fields that the render follows, or that say nothing about the picture. What else there is changed it.
const FOLLOWED: &[&str] = &[
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "VAE hash",
    "VAE",
    "Clip skip",
    "ENSD",
    "RNG",
    PROMPT_SYNTAX,
    WEIGHT_DTYPE,
    // Each picture of a batch has a seed of its own.
    "Batch size",
    "Batch pos",
    "User",
    "Version",
];

/// What a picture says of itself; nothing where there is none.
#[derive(Default)]
pub(super) struct ReferencePicture {
    path: PathBuf,
    text: Infotext,
}

impl ReferencePicture {
    /// Reads the parameters of a picture.
    pub(super) fn parse(path: &Path, parameters: &str) -> Result<Self> {
        let text = Infotext::parse(parameters);
        if text.fields.is_empty() {
            let found = "the picture has no parameters that WebUI would have written";
            return Err(Error::missing(found).in_file(path));
        }
        Ok(ReferencePicture { path: path.to_owned(), text })
    }

    /// Whether this program made it: it says what it rounded weights to, where it did.
    pub(super) fn is_ours(&self) -> bool {
        self.text("Version").is_some_and(|version| version.starts_with("trinart-ckpt "))
    }

    pub(super) fn prompt(&self) -> &str {
        &self.text.prompt
    }

    pub(super) fn negative(&self) -> &str {
        &self.text.negative
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.text.get(name)
    }

    /// The number in a field, where the picture has it.
    pub(super) fn number<T: FromStr>(&self, name: &str, is_known: impl Fn(&T) -> bool) -> Result<Option<T>> {
        self.read(name, |value| value.parse().ok().filter(is_known))
    }

    /// Width and height.
    pub(super) fn size(&self) -> Result<Option<(usize, usize)>> {
        self.read("Size", |value| size(value).ok())
    }

    /// The value of a field, by the words that it may have.
    pub(super) fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let find = |value: &str| known.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)).map(|(_, it)| *it);
        self.read(name, find)
    }

    fn read<T>(&self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let shown: String = value.chars().take(40).collect();
        let refused = || Error::unsupported(format!("made with {name}: {shown}, which cannot be done here"));
        read(value.trim()).ok_or_else(|| refused().in_file(&self.path)).map(Some)
    }

    /// How the noise levels were spread for this sampler.
    pub(super) fn schedule(&self, sampler: Sampler) -> Result<Option<ScheduleType>> {
        if !sampler.has_schedule() {
            return Ok(None);
        }
        let known = [
            ("Automatic", sampler.automatic_schedule()),
            ("Uniform", ScheduleType::Uniform),
            ("Karras", ScheduleType::Karras),
        ];
        self.one_of("Schedule type", &known)
    }

    /// What of the picture's parameters this render does not follow. `vae` is the name and the hash of the autoencoder
    /// that was asked for, `hash` that of the checkpoint.
    pub(super) fn judge(&self, hash: Option<&str>, vae: Option<(&str, &str)>) -> Vec<Check> {
        let mut left_out: Vec<String> = Vec::new();
        for (name, value) in self.text.fields.iter().filter(|(name, _)| !FOLLOWED.contains(&name.as_str())) {
            left_out.push(format!("{name}: {}", value.chars().take(40).collect::<String>()));
        }
        let theirs = (self.text("VAE"), self.text("VAE hash"));
        match (vae, theirs) {
            (_, (None, None)) | (Some(_), (Some(_), None)) => {}
            (Some((_, hash)), (_, Some(their_hash))) if hash.eq_ignore_ascii_case(their_hash) => {}
            (None, (name, hash)) => {
                left_out.push(format!("VAE: {}, which --vae would take", name.or(hash).unwrap_or_default()));
            }
            (Some((name, hash)), (_, their_hash)) => {
                left_out.push(format!("VAE hash: {}, but {hash} for {name}", their_hash.unwrap_or_default()));
            }
        }
        let mut checks = Vec::new();
        if !self.text.fields.is_empty() {
            let found = match left_out.is_empty() {
                true => "all followed".to_owned(),
                false => format!("not followed: {}", left_out.join("; ")),
            };
            let expected = "none of these: the picture was made with more than a prompt, a sampler and a checkpoint";
            checks.push(Check::warn("parameters", left_out.is_empty(), found, expected));
        }
        if let (Some(theirs), Some(ours)) = (self.text("Model hash"), hash)
            && !ours.eq_ignore_ascii_case(theirs)
        {
            let name = self.text("Model").unwrap_or_default();
            checks
                .push(Check::info("model", format!("another one: {ours}, the picture was made with {theirs} {name}")));
        }
        checks
    }
}
