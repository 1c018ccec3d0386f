use crate::checkpoint::Checkpoint;
use crate::claimed_family::ClaimedFamily;
use crate::family::Architecture;
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::{SD_SCALING_FACTOR, SDXL_SCALING_FACTOR, VaeConstants};
use trinart_ckpt_formats::error::{Error, Hint, Result, printable};
use trinart_ckpt_formats::metadata::PyValue;

/// What a file shows about the latents of its VAE. Families of VAEs differ in the scaling factor; all shapes are the same.
struct Latents {
    /// The factor by which the VAE's latents are multiplied for the UNet.
    scaling_factor: f64,
    /// Where this comes from: `SDXL base`, `scaling_factor 0.13025`.
    evidence: String,
}

impl Latents {
    fn of_architecture(architecture: Architecture) -> Self {
        let scaling_factor = VaeConstants::of(architecture).scaling_factor;
        Latents { scaling_factor, evidence: architecture.text().to_owned() }
    }

    /// Reads the configuration of a folder's VAE.
    fn of_config(checkpoint: &Checkpoint) -> Option<Self> {
        let scaling_factor = checkpoint.stored().configs().get("vae")?.get("scaling_factor")?.as_f64()?;
        Some(Latents { scaling_factor, evidence: format!("scaling_factor {scaling_factor}") })
    }

    /// Reads the fields that ComfyUI and trainers write.
    fn of_metadata(checkpoint: &Checkpoint) -> Option<Self> {
        const FIELDS: [&str; 2] = ["modelspec.architecture", "ss_base_model_version"];
        let text =
            |field: &str| checkpoint.metadata().get(field).map(|value| (field.to_owned(), PyValue::to_text(value)));
        let (field, text) = FIELDS.iter().find_map(|field| text(field))?;
        let scaling_factor = match ClaimedFamily::of_name(&text)? {
            ClaimedFamily::Sdxl => SDXL_SCALING_FACTOR,
            ClaimedFamily::Sd1 | ClaimedFamily::Sd2 => SD_SCALING_FACTOR,
            ClaimedFamily::Flux => return None,
        };
        Some(Latents { scaling_factor, evidence: format!("{field} {text}") })
    }

    /// Reads the keys and shapes of a whole model.
    fn of_tensors(checkpoint: &Checkpoint) -> Option<Self> {
        let detection = Checkpoint::detect(checkpoint.stored());
        // A VAE alone has no candidates but all; SD v1 and v2 have the same latents.
        let mut found = detection.candidates().into_iter().map(Latents::of_architecture);
        let first = found.next()?;
        found.all(|other| other.is_like(&first)).then_some(first)
    }

    fn of_base(base: &Checkpoint) -> Option<Self> {
        Latents::of_config(base).or_else(|| Latents::of_tensors(base))
    }

    fn of_donor(donor: &Checkpoint) -> Option<Self> {
        Latents::of_config(donor).or_else(|| Latents::of_tensors(donor)).or_else(|| Latents::of_metadata(donor))
    }

    /// Published factors differ by a third; the tolerance is for rounding.
    fn is_like(&self, other: &Latents) -> bool {
        (self.scaling_factor - other.scaling_factor).abs() < 1e-4
    }
}

/// Compares the families of a checkpoint and of a VAE. Returns what the user should know. Fails if they contradict each
/// other, unless that is allowed.
pub(super) fn check(base: &Checkpoint, donor: &Checkpoint, allow: bool) -> Result<Option<Notice>> {
    match (Latents::of_base(base), Latents::of_donor(donor)) {
        (Some(base), Some(donor)) if !base.is_like(&donor) => contradiction(&base, &donor, allow).map(Some),
        (Some(base), None) if base.scaling_factor == SDXL_SCALING_FACTOR => {
            let text =
                "the VAE file does not show its family: VAEs of SD v1 have the same shapes, but wrong colors in SDXL";
            Ok(Some(Notice::new(NoticeCode::VaeFamilyUnknown, text)))
        }
        _ => Ok(None),
    }
}

/// Compares the family of a checkpoint with the architecture that a known VAE file belongs to; see
/// [`vae_architecture`](crate::published::vae_architecture). Returns what the user should know. Fails if the families
/// contradict each other, unless `allow` is set.
pub fn check_published(base: &Checkpoint, architecture: Architecture, allow: bool) -> Result<Option<Notice>> {
    let donor = Latents::of_architecture(architecture);
    match Latents::of_base(base) {
        Some(latents) if !latents.is_like(&donor) => contradiction(&latents, &donor, allow)
            .map(Some)
            .map_err(|error| error.during(format!("merging into {}", printable(&base.path().to_string_lossy())))),
        _ => Ok(None),
    }
}

fn contradiction(base: &Latents, donor: &Latents, allow: bool) -> Result<Notice> {
    let found = format!("a VAE of another family ({}) than the checkpoint ({})", donor.evidence, base.evidence);
    if allow {
        return Ok(Notice::new(
            NoticeCode::VaeFamilyMismatch,
            format!("{found}; the checkpoint's scaling factor stays"),
        ));
    }
    Err(Error::mismatch(found).with_hint(Hint::AllowFamilyMismatch))
}
