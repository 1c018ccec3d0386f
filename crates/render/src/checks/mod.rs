//! Checks of a render. Each check has a measured value, an expected range and a reason.

mod answer;
mod distilled;
mod statistics;

use serde::Serialize;

use crate::picture::{Picture, PictureComparison};
pub(crate) use answer::{answer, denoising};
pub(crate) use distilled::distilled;
pub use statistics::relative_distance;
pub(crate) use statistics::{Statistics, cosine};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Unusual, but possible for a working checkpoint.
    Warning,
    /// Not as expected, but the render worked around it.
    Repaired,
    /// Not as expected: the checkpoint is broken.
    Fail,
    /// A measured value without an expected range.
    Info,
}

/// A check of a render.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Check {
    /// The name of the check.
    pub name: &'static str,
    /// The result.
    pub verdict: Verdict,
    /// The measured value or the finding.
    pub found: String,
    /// The expected value, and the reason. Empty for [`Verdict::Info`].
    pub expected: String,
}

impl Check {
    /// Returns a check that passes or fails.
    pub(crate) fn judge(name: &'static str, passed: bool, found: String, expected: impl Into<String>) -> Self {
        let verdict = if passed { Verdict::Pass } else { Verdict::Fail };
        Check { name, verdict, found, expected: expected.into() }
    }

    /// Returns a check that passes or warns.
    pub(crate) fn warn(name: &'static str, passed: bool, found: String, expected: impl Into<String>) -> Self {
        let verdict = if passed { Verdict::Pass } else { Verdict::Warning };
        Check { name, verdict, found, expected: expected.into() }
    }

    /// Returns a check that only reports a measured value.
    pub(crate) fn info(name: &'static str, found: String) -> Self {
        Check { name, verdict: Verdict::Info, found, expected: String::new() }
    }
}

/// Allowed standard deviation of a latent, relative to that of the model's training. Scale factors make it about 1; EDM
/// models may have another one. Guidance stretches the latents of pictures in few colors to 5; a broken UNet gives 20.
const LATENT_DEVIATION: (f64, f64) = (0.2, 8.0);

/// A picture is black if its brightest value (0 to 255) is below this.
const BLACK: u8 = 8;

/// A picture is flat if the standard deviation of its values (0 to 255) is below this.
const FLAT: f64 = 4.0;

/// Maximum share of values at 0 or 255. Only pictures with a plain background may exceed it.
const CLIPPED: f64 = 0.3;

/// Minimum correlation of neighboring pixels. In noise it is about 0.
const NEIGHBORS: f64 = 0.5;

/// Number of latent channels in Stable Diffusion.
const CHANNELS: usize = 4;

/// Maximum relative difference between a latent and the same latent after decoding and encoding.
const ROUND_TRIP: f64 = 0.75;

/// Minimum PSNR in decibels between the pictures that two VAEs of one family decode from the same latent. SD v1 VAEs
/// reach 25 to 40.
const FAMILY: f64 = 15.0;

/// Minimum relative distance between the embeddings of "cat" and "". Trained text encoders have 0.1 to 1.
const WORD_DISTANCE: f64 = 1e-3;

/// Checks the text encoder: the standard deviation of its embeddings, and the relative distance between those of "cat"
/// and "".
pub(crate) fn text_encoder(deviation: f64, word_distance: f64) -> Check {
    let found =
        format!("deviation {deviation:.3}, embeddings of \"cat\" and \"\" differ by {:.1} %", 100.0 * word_distance);
    let expected = format!(
        "deviation over 0.001 and difference over {} %: an untrained text encoder gives every prompt the same embedding",
        100.0 * WORD_DISTANCE
    );
    Check::judge("text encoder", deviation > 1e-3 && word_distance > WORD_DISTANCE, found, expected)
}

/// Checks the final latent. `data` is the deviation of the latents that the model was trained with.
pub(crate) fn latent(values: &[f32], data: f64) -> Check {
    let Statistics { deviation, mean, .. } = Statistics::of(values);
    let (least, most) = (LATENT_DEVIATION.0 * data, LATENT_DEVIATION.1 * data);
    let found = format!("mean {mean:.3}, deviation {deviation:.3}");
    let passed = (least..=most).contains(&deviation);
    Check::judge(
        "latent",
        passed,
        found,
        format!("deviation {least} to {most}: the scale factor makes it about {data}"),
    )
}

/// Checks that a picture is not black, flat, clipped or noise.
pub(crate) fn picture(picture: &Picture) -> Vec<Check> {
    let values: Vec<f32> = picture.rgb.iter().map(|&value| f32::from(value)).collect();
    let Statistics { deviation, max, .. } = Statistics::of(&values);
    let clipped =
        picture.rgb.iter().filter(|&&value| value == 0 || value == 255).count() as f64 / values.len().max(1) as f64;
    let neighbors = neighbors(&values, 3 * picture.width, 3);
    vec![
        Check::judge(
            "not black",
            max >= f64::from(BLACK),
            format!("brightest value {max}"),
            format!("at least {BLACK}: NaN values decode to black"),
        ),
        Check::judge(
            "not flat",
            deviation >= FLAT,
            format!("deviation {deviation:.1}"),
            format!("at least {FLAT}: an untrained decoder gives a single color"),
        ),
        Check::warn(
            "not clipped",
            clipped <= CLIPPED,
            format!("{:.1} % of values at 0 or 255", 100.0 * clipped),
            format!("at most {} %: more is overexposed, unless the background is plain", 100.0 * CLIPPED),
        ),
        Check::judge(
            "not noise",
            neighbors >= NEIGHBORS,
            format!("correlation of neighboring pixels {neighbors:.3}"),
            format!("at least {NEIGHBORS}: pictures are smooth, noise is not"),
        ),
    ]
}

/// Returns the correlation between horizontally adjacent values, which are `distance` apart in a row.
fn neighbors(values: &[f32], row: usize, distance: usize) -> f64 {
    let pairs = || values.chunks_exact(row.max(1)).flat_map(|row| row.iter().zip(row.iter().skip(distance)));
    let Statistics { mean, deviation, .. } = Statistics::of(values);
    let count = pairs().count().max(1) as f64;
    let covariance = pairs().map(|(a, b)| (f64::from(*a) - mean) * (f64::from(*b) - mean)).sum::<f64>() / count;
    if deviation == 0.0 { 1.0 } else { covariance / (deviation * deviation) }
}

/// Checks the VAE by comparing a latent with the same latent after decoding and encoding. `other` is the family whose VAE
/// has the same shapes, but other latents.
pub(crate) fn round_trip(latent: &[f32], again: &[f32], other: &str) -> Vec<Check> {
    let relative = relative_distance(latent, again);
    let expected = format!(
        "at most {} %: more suggests a mismatched encoder and decoder, or a VAE of another family (that of {other} has the \
         same shapes)",
        100.0 * ROUND_TRIP
    );
    let found = format!("decoded and encoded again, the latent differs by {:.1} %", 100.0 * relative);
    // Per channel, because a bias alone gives each channel a different constant.
    let channels = again.chunks(again.len().div_ceil(CHANNELS).max(1));
    let deviation = channels.map(|channel| Statistics::of(channel).deviation).fold(0.0, f64::max);
    let encoder = Check::judge(
        "encoder",
        deviation > 1e-3,
        format!("deviation {deviation:.3} within the channels of the encoded picture"),
        "over 0.001: an untrained encoder gives every picture the same latent",
    );
    vec![Check::warn("round trip", relative <= ROUND_TRIP, found, expected), encoder]
}

/// Compares the latents of two renders with the same settings. If `only_vae_differs` between the checkpoints, the latents
/// must be bit-identical.
pub(crate) fn same_latents(a: &[f32], b: &[f32], only_vae_differs: bool) -> Check {
    if is_same(a, b) {
        let found = "bit-identical: the UNet and the text encoder give the same results";
        return Check { verdict: Verdict::Pass, ..Check::info("latents", found.into()) };
    }
    let (relative, cosine) = (100.0 * relative_distance(a, b), cosine(a, b));
    let found = format!("differ by {relative:.3} %, cosine {cosine:.4}");
    match only_vae_differs {
        true => Check::judge("latents", false, found, "bit-identical: the checkpoints differ only in the VAE"),
        false => Check::info("latents", found),
    }
}

/// Whether two latents are bit-identical.
pub(crate) fn is_same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Checks that two VAEs belong to one family by comparing the pictures that they decode from one latent.
pub(crate) fn same_family(comparison: &PictureComparison) -> Check {
    let (passed, found) = match comparison.psnr {
        Some(psnr) => (psnr >= FAMILY, format!("PSNR {psnr:.1} dB between the pictures of the same latent")),
        None => (true, "the pictures of the same latent are identical".to_owned()),
    };
    let why =
        "VAEs of one family differ in details; those of SD v1 and SDXL have the same shapes but give other colors";
    Check::warn("family", passed, found, format!("at least {FAMILY} dB: {why}"))
}

/// Downgrades failures to warnings if the checkpoint `other`, whose checks are `others`, fails the same checks. Call this
/// only for checkpoints with identical latents. Affects only checks that fail for untrained UNets as well as broken ones.
pub(crate) fn downgrade_shared_failures(checks: &mut [Check], other: &str, others: &[Check]) {
    let fails_there = |name| others.iter().any(|other| other.name == name && other.verdict == Verdict::Fail);
    for check in checks.iter_mut().filter(|check| ["noise", "denoising", "latent", "not noise"].contains(&check.name)) {
        if check.verdict == Verdict::Fail && fails_there(check.name) {
            check.verdict = Verdict::Warning;
            check.found.push_str(&format!("; {other} fails it too"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(picture: &Picture) -> Vec<&'static str> {
        super::picture(picture).iter().filter(|it| it.verdict == Verdict::Fail).map(|it| it.name).collect()
    }

    fn of(value: impl Fn(usize, usize) -> u8) -> Picture {
        let rgb = (0..32).flat_map(|y| (0..32).map(move |x| (x, y))).flat_map(|(x, y)| [value(x, y); 3]).collect();
        Picture { width: 32, height: 32, rgb }
    }

    #[test]
    fn rejects_black_flat_and_noisy_pictures() {
        assert!(verdicts(&of(|x, y| (4 * x + 3 * y + 10) as u8)).is_empty());
        assert_eq!(verdicts(&of(|_, _| 0)), ["not black", "not flat"]);
        assert_eq!(verdicts(&of(|_, _| 128)), ["not flat"]);
        assert_eq!(verdicts(&of(|x, y| (((x * 7919 + y * 104_729) * 2_654_435_761) >> 7) as u8)), ["not noise"]);
    }

    #[test]
    fn rejects_a_text_encoder_without_weights() {
        assert_eq!(text_encoder(1.0, 0.3).verdict, Verdict::Pass);
        assert_eq!(text_encoder(1.0, 0.0).verdict, Verdict::Fail);
        assert_eq!(text_encoder(0.0, f64::NAN).verdict, Verdict::Fail);
    }

    #[test]
    fn requires_identical_latents_if_only_the_vae_differs() {
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.0], true).verdict, Verdict::Pass);
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.5], false).verdict, Verdict::Info);
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.5], true).verdict, Verdict::Fail);
        assert!(!is_same(&[0.0], &[-0.0]));
    }

    #[test]
    fn downgrades_only_shared_failures_of_an_untrained_unet() {
        let failed = |name| Check::judge(name, false, String::new(), "");
        let mut checks = ["noise", "not noise", "not black"].map(failed);
        downgrade_shared_failures(&mut checks, "base.ckpt", &["noise", "not black"].map(failed));
        assert_eq!(checks.each_ref().map(|it| it.verdict), [Verdict::Warning, Verdict::Fail, Verdict::Fail]);
        assert!(checks[0].found.ends_with("base.ckpt fails it too"));
    }

    #[test]
    fn warns_of_a_vae_that_does_not_reproduce_its_latents() {
        let latent = [1.0, -2.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0];
        let verdicts =
            |again: [f32; 8]| round_trip(&latent, &again, "SDXL").iter().map(|it| it.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts([1.1, -1.9, 0.4, 1.6, -1.1, 1.9, 0.1, 0.9]), [Verdict::Pass, Verdict::Pass]);
        assert_eq!(verdicts([-2.0, 1.0, 3.0, -1.0, 2.0, -1.0, 0.0, 3.0]), [Verdict::Warning, Verdict::Pass]);
        assert_eq!(verdicts([0.0; 8]), [Verdict::Warning, Verdict::Fail]);
        // A constant per channel, as from a bias alone.
        assert_eq!(verdicts([1.0, 1.0, -2.0, -2.0, 3.0, 3.0, 0.5, 0.5]), [Verdict::Warning, Verdict::Fail]);
    }
}
