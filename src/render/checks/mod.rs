//! What a render is held against: figures, what they should be, and why.

mod statistics;

use serde::Serialize;

use crate::render::picture::{Picture, PictureComparison};
pub use statistics::{Statistics, cosine, relative_distance};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Worth a look, and no failure: honest checkpoints can be like that.
    Warning,
    /// Not as it should be, but the render went around it.
    Repaired,
    /// Not as it should be.
    Fail,
    /// No judgement: a figure to look at.
    Info,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What is expected, and why; empty where nothing is.
    pub expected: String,
}

impl Check {
    /// Passed or failed.
    pub fn judge(name: &'static str, passed: bool, found: String, expected: impl Into<String>) -> Self {
        let verdict = if passed { Verdict::Pass } else { Verdict::Fail };
        Check { name, verdict, found, expected: expected.into() }
    }

    /// Passed, or worth a look.
    pub fn warn(name: &'static str, passed: bool, found: String, expected: impl Into<String>) -> Self {
        let verdict = if passed { Verdict::Pass } else { Verdict::Warning };
        Check { name, verdict, found, expected: expected.into() }
    }

    /// A figure to look at.
    pub fn info(name: &'static str, found: String) -> Self {
        Check { name, verdict: Verdict::Info, found, expected: String::new() }
    }
}

/// A trained UNet sees the noise in pure noise, and nearly nothing else; one whose weights were mixed up does not.
const NOISE_COSINE: f64 = 0.9;

/// Noise has a deviation of 1, and the guidance may stretch what is predicted.
const NOISE_DEVIATION: (f64, f64) = (0.5, 2.0);

/// Latents times the scale of 0.18215 are made to have a deviation of about one.
const LATENT_DEVIATION: (f64, f64) = (0.3, 3.0);

/// A picture whose brightest value is below this is black, one with less deviation flat, of 255.
const BLACK: u8 = 8;
const FLAT: f64 = 4.0;

/// More values than this at the ends of the range are a picture that was cut off, or one on a white ground.
const CLIPPED: f64 = 0.3;

/// Neighbours in a picture resemble each other; in noise they do not.
const NEIGHBOURS: f64 = 0.5;

/// Channels of a latent of SD v1.
const CHANNELS: usize = 4;

/// An autoencoder gives its latents back but for details.
const ROUND_TRIP: f64 = 0.75;

/// Decibels between the pictures that two autoencoders of one family make of one latent; swaps measure 25 to 40.
const FAMILY: f64 = 15.0;

/// Two prompts that a text encoder tells apart are farther apart than this; trained ones have them some tens of percent apart.
const WORDS: f64 = 1e-3;

/// What the text encoder makes of the prompts: the deviation of it, and how far apart it has a word and no word.
pub fn text_encoder(deviation: f64, words: f64) -> Check {
    let found = format!("deviation {deviation:.3}, a word and no word are {:.1} % apart", 100.0 * words);
    let expected = format!(
        "a deviation over 0.001, and over {} %: a text encoder without weights says the same of every prompt",
        100.0 * WORDS
    );
    Check::judge("text encoder", deviation > 1e-3 && words > WORDS, found, expected)
}

/// What the UNet predicts for the first, pure noise.
pub fn sees_noise(noise: &[f32], predicted: &[f32]) -> Check {
    let (cosine, deviation) = (cosine(noise, predicted), Statistics::of(predicted).deviation);
    let (least, most) = NOISE_DEVIATION;
    let passed = cosine > NOISE_COSINE && (least..=most).contains(&deviation);
    let found = format!("cosine {cosine:.4} of predicted and drawn noise, deviation {deviation:.3}");
    let why = "a trained UNet sees the noise in pure noise; untrained, swapped or misnamed weights do not";
    Check::judge(
        "noise",
        passed,
        found,
        format!("a cosine over {NOISE_COSINE}, a deviation of {least} to {most}: {why}"),
    )
}

/// The latent at the end.
pub fn latent(values: &[f32]) -> Check {
    let Statistics { deviation, mean, .. } = Statistics::of(values);
    let (least, most) = LATENT_DEVIATION;
    let found = format!("mean {mean:.3}, deviation {deviation:.3}");
    let passed = (least..=most).contains(&deviation);
    Check::judge("latent", passed, found, format!("a deviation of {least} to {most}: latents are scaled to about 1"))
}

/// Black, flat, cut off, noise.
pub fn picture(picture: &Picture) -> Vec<Check> {
    let values: Vec<f32> = picture.rgb.iter().map(|&value| f32::from(value)).collect();
    let Statistics { deviation, max, .. } = Statistics::of(&values);
    let clipped =
        picture.rgb.iter().filter(|&&value| value == 0 || value == 255).count() as f64 / values.len().max(1) as f64;
    let neighbours = neighbours(&values, 3 * picture.width);
    vec![
        Check::judge(
            "not black",
            max >= f64::from(BLACK),
            format!("brightest value {max}"),
            format!("at least {BLACK}: what is no number becomes black"),
        ),
        Check::judge(
            "not flat",
            deviation >= FLAT,
            format!("deviation {deviation:.1}"),
            format!("at least {FLAT}: a decoder without weights paints one colour"),
        ),
        Check::warn(
            "not clipped",
            clipped <= CLIPPED,
            format!("{:.1} % of values at 0 or 255", 100.0 * clipped),
            format!("at most {} %, but on a plain ground: more is burnt out", 100.0 * CLIPPED),
        ),
        Check::judge(
            "not noise",
            neighbours >= NEIGHBOURS,
            format!("neighbours correlate by {neighbours:.3}"),
            format!("at least {NEIGHBOURS}: a picture is smooth, noise is not"),
        ),
    ]
}

/// The correlation of each value with that of the pixel to its right.
fn neighbours(values: &[f32], row: usize) -> f64 {
    let pairs = || values.chunks_exact(row.max(1)).flat_map(|row| row.iter().zip(row.iter().skip(3)));
    let Statistics { mean, deviation, .. } = Statistics::of(values);
    let count = pairs().count().max(1) as f64;
    let covariance = pairs().map(|(a, b)| (f64::from(*a) - mean) * (f64::from(*b) - mean)).sum::<f64>() / count;
    if deviation == 0.0 { 1.0 } else { covariance / (deviation * deviation) }
}

/// How well the autoencoder gives back the latent that it decoded.
pub fn round_trip(latent: &[f32], again: &[f32]) -> Vec<Check> {
    let relative = relative_distance(latent, again);
    let expected = format!(
        "at most {} %: an encoder and a decoder of two kinds, or another family's autoencoder (SDXL's has these shapes too)",
        100.0 * ROUND_TRIP
    );
    let found = format!("decoded and encoded again, the latent differs by {:.1} %", 100.0 * relative);
    // Of each channel by itself: a bias alone makes channels that differ.
    let channels = again.chunks(again.len().div_ceil(CHANNELS).max(1));
    let deviation = channels.map(|channel| Statistics::of(channel).deviation).fold(0.0, f64::max);
    let encoder = Check::judge(
        "encoder",
        deviation > 1e-3,
        format!("deviation {deviation:.3} within the channels of what it makes of the picture"),
        "over 0.001: an encoder without weights says the same of every picture",
    );
    vec![Check::warn("round trip", relative <= ROUND_TRIP, found, expected), encoder]
}

/// Latents of two renders with the same settings. `only_autoencoder` says that the checkpoints differ in nothing else, so
/// that the latents must be the same to the last bit.
pub fn same_latents(a: &[f32], b: &[f32], only_autoencoder: bool) -> Check {
    if is_same(a, b) {
        let found = "bit-identical: UNet and text encoder draw the same";
        return Check { verdict: Verdict::Pass, ..Check::info("latents", found.into()) };
    }
    let (relative, cosine) = (100.0 * relative_distance(a, b), cosine(a, b));
    let found = format!("different, by {relative:.3} %, cosine {cosine:.4}");
    match only_autoencoder {
        true => Check::judge("latents", false, found, "the same bits: the checkpoints differ in the autoencoder alone"),
        false => Check::info("latents", found),
    }
}

/// Whether two latents are the same, bit by bit.
pub fn is_same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Two autoencoders' pictures of one latent.
pub fn same_family(comparison: &PictureComparison) -> Check {
    let psnr = comparison.psnr.unwrap_or(f64::INFINITY);
    let found = match comparison.psnr {
        Some(psnr) => format!("the pictures of one latent are {psnr:.1} dB apart"),
        None => "the pictures of one latent are the same".to_owned(),
    };
    let why = "autoencoders of one family differ in details; SDXL's has the shapes of SD v1's and paints other colours";
    Check::warn("family", psnr >= FAMILY, found, format!("at least {FAMILY} dB: {why}"))
}

/// Takes failures back to warnings that another checkpoint, whose latents are the same, has too: `others` are its checks. Only
/// of the checks that an untrained network fails as well as a broken one.
pub fn excuse(checks: &mut [Check], other: &str, others: &[Check]) {
    let fails_there = |name| others.iter().any(|other| other.name == name && other.verdict == Verdict::Fail);
    for check in checks.iter_mut().filter(|check| ["noise", "latent", "not noise"].contains(&check.name)) {
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
    fn pictures_are_told_from_what_is_none() {
        assert!(verdicts(&of(|x, y| (4 * x + 3 * y + 10) as u8)).is_empty());
        assert_eq!(verdicts(&of(|_, _| 0)), ["not black", "not flat"]);
        assert_eq!(verdicts(&of(|_, _| 128)), ["not flat"]);
        assert_eq!(verdicts(&of(|x, y| (((x * 7919 + y * 104_729) * 2_654_435_761) >> 7) as u8)), ["not noise"]);
    }

    #[test]
    fn noise_is_recognised() {
        assert_eq!(sees_noise(&[1.0, -1.5, 0.5], &[1.1, -1.6, 0.4]).verdict, Verdict::Pass);
        assert_eq!(sees_noise(&[1.0, -1.5, 0.5], &[0.5, 1.5, -1.0]).verdict, Verdict::Fail);
        assert_eq!(sees_noise(&[1.0, -1.5, 0.5], &[10.0, -15.0, 5.0]).verdict, Verdict::Fail);
        assert_eq!(sees_noise(&[1.0, -2.0], &[f32::NAN, 0.0]).verdict, Verdict::Fail);
    }

    #[test]
    fn a_text_encoder_without_weights_is_told() {
        assert_eq!(text_encoder(1.0, 0.3).verdict, Verdict::Pass);
        assert_eq!(text_encoder(1.0, 0.0).verdict, Verdict::Fail);
        assert_eq!(text_encoder(0.0, f64::NAN).verdict, Verdict::Fail);
    }

    #[test]
    fn latents_must_be_the_same_where_the_autoencoder_alone_is_another() {
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.0], true).verdict, Verdict::Pass);
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.5], false).verdict, Verdict::Info);
        assert_eq!(same_latents(&[1.0, 2.0], &[1.0, 2.5], true).verdict, Verdict::Fail);
        assert!(!is_same(&[0.0], &[-0.0]));
    }

    #[test]
    fn what_the_other_has_too_is_excused_and_nothing_else() {
        let failed = |name| Check::judge(name, false, String::new(), "");
        let mut checks = ["noise", "not noise", "not black"].map(failed);
        excuse(&mut checks, "base.ckpt", &["noise", "not black"].map(failed));
        assert_eq!(checks.each_ref().map(|it| it.verdict), [Verdict::Warning, Verdict::Fail, Verdict::Fail]);
        assert!(checks[0].found.ends_with("base.ckpt fails it too"));
    }

    #[test]
    fn an_autoencoder_that_does_not_give_its_latents_back_is_told() {
        let latent = [1.0, -2.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0];
        let verdicts = |again: [f32; 8]| round_trip(&latent, &again).iter().map(|it| it.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts([1.1, -1.9, 0.4, 1.6, -1.1, 1.9, 0.1, 0.9]), [Verdict::Pass, Verdict::Pass]);
        assert_eq!(verdicts([-2.0, 1.0, 3.0, -1.0, 2.0, -1.0, 0.0, 3.0]), [Verdict::Warning, Verdict::Pass]);
        assert_eq!(verdicts([0.0; 8]), [Verdict::Warning, Verdict::Fail]);
        // A bias of each channel is no picture.
        assert_eq!(verdicts([1.0, 1.0, -2.0, -2.0, 3.0, 3.0, 0.5, 0.5]), [Verdict::Warning, Verdict::Fail]);
    }
}
