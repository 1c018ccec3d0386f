//! Reference pictures: files whose `parameters` describe how to render them again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::infotext::{Infotext, OURS, parse_size};
use super::versions::{Rules, WebUiVersion, unnamed_schedule};
use crate::checks::Check;
use crate::picture::{DecodedPicture, Picture};
use crate::sampling::{Sampler, ScheduleType};
use trinart_ckpt_formats::error::{Error, Result};

/// Maximum size of a picture file in bytes. A PNG of the largest supported picture is smaller.
const PICTURE_BYTES: u64 = 64 << 20;

/// Digits of WebUI's model hash of 2022. Later ones have ten.
const LEGACY_DIGITS: usize = 8;

/// Maximum number of characters of a value in a message.
const SHOWN: usize = 40;

/// Fields that only this program writes: the dtype of the weights, and the syntax of the prompt.
pub(super) const WEIGHT_DTYPE: &str = "Weight dtype";
pub(super) const PROMPT_SYNTAX: &str = "Prompt syntax";

/// WebUI's name for the schedule type that it chooses for a sampler.
pub(super) const AUTOMATIC: &str = "Automatic";

/// Fields that a render uses, or that do not affect the picture. All other fields affect the picture.
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
    "Emphasis",
    "Pad conds",
    "Pad conds v0",
    "Old prompt editing timelines",
    "Downcast alphas_cumprod",
    // The options in `webui.rs`.
    "Beta schedule alpha",
    "Beta schedule beta",
    "Schedule min sigma",
    "Schedule max sigma",
    "Schedule rho",
    "Discard penultimate sigma",
    "Eta",
    "Eta DDIM",
    "Sigma churn",
    "Sigma tmin",
    "Sigma tmax",
    "Sigma noise",
    "SGM noise multiplier",
    "NGMS",
    "NGMS all steps",
    "Skip Early CFG",
    "Noise Schedule",
    "Variation seed",
    "Variation seed strength",
    "Seed resize from",
    "Tiling",
    PROMPT_SYNTAX,
    WEIGHT_DTYPE,
    // WebUI writes the seed of each picture, not that of its batch.
    "TI hashes",
    "Lora hashes",
    // What the extensions of model sites add: the hashes of the files, and the date.
    "Hashes",
    "Created Date",
    "Batch size",
    "Batch pos",
    "User",
    "Version",
];

/// Fields with a value that does not affect the picture.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("UniPC variant", "bh1"),
    ("UniPC skip type", "time_uniform"),
    ("UniPC order", "3"),
    ("UniPC lower order final", "True"),
    ("Token merging ratio", "0"),
    ("VAE Encoder", "Full"),
    ("VAE Decoder", "Full"),
    ("Civitai metadata", "{}"),
];

/// A picture to render again, with its parameters.
#[derive(Debug, Clone)]
pub struct ReferencePicture {
    pub(crate) picture: Picture,
    pub(crate) parameters: ReferenceParameters,
}

impl ReferencePicture {
    /// Reads a PNG, JPEG or WebP file with the parameters of WebUI, and reads the parameters of NovelAI as WebUI does.
    ///
    /// Fails if the file is not a readable picture or has no such parameters.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let DecodedPicture { picture, parameters, program, .. } = read_picture(path)?;
        let text = parameters.map(|text| Infotext::parse(&text)).filter(|text| !text.fields.is_empty());
        let missing = || {
            let found = match program {
                Some(program) => format!("the picture has the parameters of {program}, not those of WebUI"),
                None => "the picture has no WebUI parameters".to_owned(),
            };
            Error::missing(found).in_file(path)
        };
        let parameters = ReferenceParameters { path: path.to_owned(), text: text.ok_or_else(missing)? };
        Ok(ReferencePicture { picture, parameters })
    }

    /// The file that the picture was read from.
    pub fn path(&self) -> &Path {
        &self.parameters.path
    }
}

/// Reads a PNG, JPEG or WebP file, and its parameters if it has any.
pub fn read_picture(path: &Path) -> Result<DecodedPicture> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(PICTURE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > PICTURE_BYTES {
        return Err(Error::limit(format!("the picture file exceeds {PICTURE_BYTES} bytes")).in_file(path));
    }
    DecodedPicture::from_bytes(&bytes).map_err(|error| error.in_file(path))
}

/// The files that a render uses, to compare them with those of a reference picture.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsedFiles<'a> {
    /// The hashes of the checkpoint: the first digits of its sha256, and WebUI's hash of 2022.
    pub(crate) model: [Option<&'a str>; 2],
    /// The name and the hash of a VAE that replaced the checkpoint's.
    pub(crate) vae: Option<(&'a str, Option<&'a str>)>,
    /// The fields with the hashes of LoRAs and embeddings.
    pub(crate) networks: &'a [(&'static str, String)],
}

/// The parameters of a reference picture. The default has none, so every setting keeps its own default.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReferenceParameters {
    path: PathBuf,
    text: Infotext,
}

impl ReferenceParameters {
    #[cfg(test)]
    pub(super) fn of(text: Infotext) -> Self {
        ReferenceParameters { path: PathBuf::new(), text }
    }

    /// Whether this program made the picture.
    pub(super) fn is_ours(&self) -> bool {
        self.text("Version").is_some_and(|version| version.starts_with(OURS))
    }

    pub(super) fn prompt(&self) -> &str {
        &self.text.prompt
    }

    pub(super) fn negative(&self) -> &str {
        &self.text.negative
    }

    /// The text of a field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.text.get(name)
    }

    /// The number in a field. Fails if it cannot be parsed or is not supported.
    pub(super) fn number<T: FromStr>(&self, name: &str, is_supported: impl Fn(&T) -> bool) -> Result<Option<T>> {
        // Some programs write whole numbers with a decimal point.
        let parse = |value: &str| value.parse().ok().or_else(|| value.strip_suffix(".0")?.parse().ok());
        self.read(name, |value| parse(value).filter(is_supported))
    }

    /// Width and height in pixels.
    pub(super) fn size(&self) -> Result<Option<(usize, usize)>> {
        self.read("Size", parse_size)
    }

    /// Width and height in pixels, in another field, if both are at least 8. As in WebUI, less means no size.
    pub(super) fn pixels(&self, name: &str) -> Result<Option<(usize, usize)>> {
        let side = |text: &str| text.trim().parse::<i64>().ok().filter(|it| *it <= 2048);
        let sides = self.read(name, |value| {
            let (width, height) = value.split_once('x')?;
            Some((side(width)?, side(height)?))
        })?;
        let positive = |(width, height): (i64, i64)| {
            let positive = |side: i64| usize::try_from(side).ok().filter(|side| *side >= 8);
            Some((positive(width)?, positive(height)?))
        };
        Ok(sides.and_then(positive))
    }

    /// The value of a field with a fixed set of names. Fails for any other name.
    pub(super) fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let find = |value: &str| known.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)).map(|(_, it)| *it);
        self.read(name, find)
    }

    /// Whether an option of WebUI is on. Fails for a value other than `True` and `False`.
    pub(super) fn is_set(&self, name: &str) -> Result<bool> {
        Ok(self.one_of(name, &[("True", true), ("False", false)])?.unwrap_or(false))
    }

    /// What WebUI did differently when it made the picture.
    pub(super) fn rules(&self) -> Rules {
        Rules::of(self.text("Version").and_then(WebUiVersion::parse))
    }

    fn read<T>(&self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let unsupported =
            || Error::unsupported(format!("unsupported parameter of the reference picture: {name}: {}", shown(value)));
        read(value.trim()).ok_or_else(|| unsupported().in_file(&self.path)).map(Some)
    }

    /// The schedule type, for this sampler.
    pub(super) fn schedule(&self, sampler: Sampler) -> Result<Option<ScheduleType>> {
        self.read("Schedule type", |name| match name.eq_ignore_ascii_case(AUTOMATIC) {
            true => Some(sampler.automatic_schedule()),
            false => ScheduleType::from_name(name),
        })
    }

    /// The schedule type of a picture that does not name one with its sampler, or apart from it.
    pub(super) fn unnamed_schedule(&self, sampler: Sampler) -> ScheduleType {
        match self.text.fields.is_empty() || self.is_ours() {
            true => sampler.automatic_schedule(),
            false => unnamed_schedule(self.text("Version").and_then(WebUiVersion::parse), sampler),
        }
    }

    /// Checks which parameters of the reference picture a render ignores.
    pub(crate) fn checks(&self, used: &UsedFiles<'_>) -> Vec<Check> {
        let mut checks = Vec::new();
        if !self.text.fields.is_empty() {
            let ignored = self.ignored(used);
            let found = match ignored.is_empty() {
                true => "all used".to_owned(),
                false => format!("ignored: {}", ignored.join("; ")),
            };
            let expected = "no ignored parameters: they affected the reference picture";
            checks.push(Check::warn("parameters", ignored.is_empty(), found, expected));
        }
        let is_ours = |theirs: &str| used.model.iter().flatten().any(|ours| ours.eq_ignore_ascii_case(theirs));
        if let (Some(theirs), Some(ours)) = (self.text("Model hash"), used.model.iter().flatten().next())
            && (used.model.first().is_some_and(Option::is_some) || theirs.len() == LEGACY_DIGITS)
            && !is_ours(theirs)
        {
            let name = self.text("Model").map_or_else(String::new, |name| format!(" ({name})"));
            let found = format!("another checkpoint: {ours} here, {theirs}{name} in the reference picture");
            checks.push(Check::info("model", found));
        }
        checks
    }

    /// Returns the fields that a render ignores.
    fn ignored(&self, used: &UsedFiles<'_>) -> Vec<String> {
        let vae = used.vae;
        let unknown = self.text.fields.iter().filter(|(name, value)| {
            !FOLLOWED.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&(name.as_str(), value.trim()))
        });
        let mut ignored: Vec<String> = unknown.map(|(name, value)| format!("{name}: {}", shown(value))).collect();
        for (name, ours) in used.networks {
            if let Some(theirs) = self.text(name).filter(|theirs| hashes(theirs) != hashes(ours)) {
                let ours = if ours.is_empty() { "without any" } else { ours };
                ignored.push(format!("{name}: {theirs}, but rendered {ours}"));
            }
        }
        match (vae, self.text("VAE"), self.text("VAE hash")) {
            (_, None, None) | (Some(_), Some(_), None) => {}
            (Some((_, Some(hash))), _, Some(theirs)) if hash.eq_ignore_ascii_case(theirs) => {}
            (None, Some(name), _) | (None, None, Some(name)) => {
                ignored.push(format!("VAE: {name}, but rendered with the checkpoint's"));
            }
            (Some((name, hash)), _, Some(theirs)) => {
                let hash = hash.map_or_else(String::new, |hash| format!(", hash {hash}"));
                ignored.push(format!("VAE hash: {theirs}, but rendered with {name}{hash}"));
            }
        }
        ignored
    }
}

/// Returns names with hashes, sorted.
fn hashes(field: &str) -> Vec<&str> {
    let mut all: Vec<&str> = field.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn shown(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}
