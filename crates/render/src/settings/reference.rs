//! Reference pictures: files whose `parameters` describe how to render them again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::fields::{IgnoredFields, shown};
use super::hashes::UsedFiles;
use super::infotext::{Infotext, OURS, parse_size};
use super::versions::{Rules, WebUiVersion, unnamed_schedule};
use crate::checks::Check;
use crate::picture::{DecodedPicture, Picture};
use crate::sampling::{Sampler, ScheduleType};
use trinart_ckpt_formats::error::{Error, Result};

/// Maximum size of a picture file in bytes. A PNG of the largest supported picture is smaller.
const PICTURE_BYTES: u64 = 64 << 20;

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
        self.read("Schedule type", |name| match name.eq_ignore_ascii_case(ScheduleType::AUTOMATIC) {
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
    ///
    /// Fails if a LoRA or an embedding cannot be read to compare its hash.
    pub(crate) fn checks(&self, used: &UsedFiles<'_>) -> Result<Vec<Check>> {
        if self.text.fields.is_empty() {
            return Ok(Vec::new());
        }
        let mut fields = IgnoredFields::default();
        let has_refiner = used.refiner.is_some();
        self.text.fields.iter().for_each(|(name, value)| fields.add(name, value, has_refiner));
        let mut ignored = fields.texts();
        ignored.append(&mut used.unused(&self.text)?);
        if let Some(version) = self.text("Version").filter(|version| is_of_another_program(version)) {
            ignored.push(format!("Version: {}, of a program other than WebUI and Forge", shown(version)));
        }
        let found = match ignored.is_empty() {
            true => "all used".to_owned(),
            false => format!("ignored: {}", ignored.join("; ")),
        };
        let expected = "no ignored parameters: they affected the reference picture";
        let parameters = Check::warn("parameters", ignored.is_empty(), found, expected);
        Ok([Some(parameters), used.check_model(&self.text)].into_iter().flatten().collect())
    }
}

/// Whether a version is neither of this program nor of WebUI or Forge. WebUI writes "<none>" outside of a repository.
fn is_of_another_program(version: &str) -> bool {
    !(version.starts_with(OURS) || version == "<none>" || WebUiVersion::parse(version).is_some())
}
