//! The comparison with another picture, or with what another checkpoint renders.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::model::Model;
use super::report::{Against, LatentDistance};
use crate::checkpoint::compare::{self, pair_up};
use crate::cli::terminal::Terminal;
use crate::error::{Error, Result};
use crate::io::{Progress, parallel};
use crate::model::{autoencoder, position_ids};
use crate::render::checks::{self, Check};
use crate::render::kernels::Machine;
use crate::render::observer::Trace;
use crate::render::picture::{Picture, PictureComparison, compare, contact_sheet};
use crate::render::pipeline::{Rendered, Settings, render};
use crate::state_dict::StateDict;

/// Bytes of a picture that is read: more than any PNG of its largest size needs.
const PICTURE_BYTES: u64 = 512 << 20;

/// The parts of a model that a render takes, as in a sentence, by the beginning of their keys.
const PARTS: [(&str, &str); 4] = [
    ("UNet", "model.diffusion_model."),
    ("text encoder", "cond_stage_model."),
    ("schedule", "alphas_cumprod"),
    (AUTOENCODER, "first_stage_model."),
];
const AUTOENCODER: &str = "autoencoder";

/// What ours is compared with.
pub(super) enum Other {
    /// A picture.
    Picture(Picture),
    /// What another checkpoint renders with the same settings.
    Render {
        picture: Picture,
        latent: Vec<f32>,
        checks: Vec<Check>,
        /// Whether the two differ in the autoencoder, and in nothing else that a render takes.
        only_autoencoder: bool,
    },
}

impl Other {
    /// Reads the picture, or renders the checkpoint and compares its weights with ours.
    pub(super) fn open(
        path: &Path,
        ours: &Model,
        settings: &Settings,
        machine: Option<&Arc<dyn Machine>>,
        checks: &mut Vec<Check>,
        terminal: &Terminal,
    ) -> Result<Self> {
        let mut magic = [0; 8];
        let read = File::open(path).and_then(|mut file| file.read(&mut magic));
        if read.is_ok_and(|_| magic == *b"\x89PNG\r\n\x1a\n") {
            return Ok(Other::Picture(read_picture(path)?.0));
        }
        let model = Model::open(path)?;
        let rendered = render(&model.state_dict, settings, machine, &Trace::default(), terminal)
            .map_err(|error| error.in_file(path))?;
        let differing = differing(&ours.state_dict, &model.state_dict, terminal)?;
        checks.push(Check::info("weights", describe(&differing)));
        let only_autoencoder = differing.iter().all(|part| part.name == AUTOENCODER);
        let Rendered { picture, latent, checks, .. } = rendered;
        Ok(Other::Render { picture, latent, checks, only_autoencoder })
    }

    fn picture(&self) -> &Picture {
        match self {
            Other::Picture(picture) | Other::Render { picture, .. } => picture,
        }
    }

    /// Compares, and adds what came of it to the checks.
    pub(super) fn compare(&self, path: &Path, ours: &Rendered, checks: &mut Vec<Check>) -> Result<Against> {
        let comparison = compare(&ours.picture, self.picture()).map_err(|error| error.in_file(path))?;
        let file = path.to_string_lossy().into_owned();
        let mut distance = None;
        if let Other::Render { latent, only_autoencoder, checks: others, .. } = self {
            let identical = checks::is_same(&ours.latent, latent);
            checks.push(checks::same_latents(&ours.latent, latent, *only_autoencoder));
            if identical {
                checks::excuse(checks, &file, others);
                checks.push(checks::same_family(&comparison));
            }
            let relative = checks::relative_distance(&ours.latent, latent);
            distance = Some(LatentDistance { identical, relative, cosine: checks::cosine(&ours.latent, latent) });
        }
        checks.push(Check::info("picture", in_words(&comparison)));
        Ok(Against { file, comparison, latent: distance })
    }

    /// Ours, the other, and the difference.
    pub(super) fn sheet(&self, ours: (&Path, &Picture), other: &Path, against: &Against) -> Picture {
        let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let latent = match &against.latent {
            None => String::new(),
            Some(latent) if latent.identical => "\nlatents bit-identical".to_owned(),
            Some(latent) => format!("\nlatents {:.2} % apart, cosine {:.4}", 100.0 * latent.relative, latent.cosine),
        };
        let captions = [
            format!("A: {}", name(ours.0)),
            format!("B: {}", name(other)),
            format!("A - B, x8: {}{latent}", in_words(&against.comparison)),
        ];
        contact_sheet(ours.1, self.picture(), captions.each_ref().map(String::as_str))
    }
}

fn in_words(comparison: &PictureComparison) -> String {
    match comparison.psnr {
        None => "the same, pixel by pixel".to_owned(),
        Some(psnr) => format!(
            "different: PSNR {psnr:.1} dB, SSIM {:.4}, at most {} of 255, {:.1} % of values by more than 2",
            comparison.ssim,
            comparison.max_difference,
            100.0 * comparison.changed
        ),
    }
}

/// A part of the model that is not the same on both sides.
struct DifferingComponent {
    name: &'static str,
    /// Tensors that differ, or that one side lacks.
    tensors: usize,
    first: String,
}

/// The parts that differ. Reads both.
fn differing(a: &StateDict, b: &StateDict, terminal: &Terminal) -> Result<Vec<DifferingComponent>> {
    let mut pairs = pair_up(a, b, |key| autoencoder::canonical_key(key).into_owned());
    // The render has position_ids of its own.
    let is_rendered = |key: &str| PARTS.iter().any(|(_, prefix)| key.starts_with(prefix)) && !position_ids::is_key(key);
    pairs.retain(|(key, ..)| is_rendered(key));
    terminal.begin("comparing", a.bytes());
    let same = parallel::map(
        terminal.jobs(),
        &pairs,
        || (),
        |(), (key, a, b)| match (a, b) {
            (Some(a), Some(b)) => {
                let found = compare::compare(a, b, terminal).map_err(|error| error.in_tensor(key.as_str()))?;
                Ok::<_, Error>(found == compare::Comparison::Equal)
            }
            _ => Ok(false),
        },
    )?;
    let different: Vec<&str> =
        pairs.iter().zip(same).filter(|(_, is_same)| !is_same).map(|((key, ..), _)| key.as_str()).collect();
    let part = |(name, prefix): (&'static str, &str)| {
        let mut keys = different.iter().filter(|key| key.starts_with(prefix));
        let first = (*keys.next()?).to_owned();
        Some(DifferingComponent { name, tensors: 1 + keys.count(), first })
    };
    Ok(PARTS.into_iter().filter_map(part).collect())
}

fn describe(differing: &[DifferingComponent]) -> String {
    if differing.is_empty() {
        return "the same, all that a render takes".to_owned();
    }
    let part = |part: &DifferingComponent| match part.tensors {
        1 => format!("{}: {} differs", part.name, part.first),
        count => format!("{}: {count} tensors differ, from {} on", part.name, part.first),
    };
    let rest = if differing.len() == 1 { "; the rest is the same" } else { "" };
    differing.iter().map(part).collect::<Vec<_>>().join("; ") + rest
}

/// A PNG and its parameters.
pub(super) fn read_picture(path: &Path) -> Result<(Picture, String)> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(PICTURE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > PICTURE_BYTES {
        return Err(Error::limit(format!("a picture of more than {PICTURE_BYTES} bytes")).in_file(path));
    }
    let (picture, text) = Picture::from_png(&bytes).map_err(|error| error.in_file(path))?;
    Ok((picture, text.unwrap_or_default()))
}
