//! What a render is held against: figures, what they should be, and why.

use serde::Serialize;

use crate::render::picture::Picture;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
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

    /// A figure to look at.
    pub fn info(name: &'static str, found: String) -> Self {
        Check { name, verdict: Verdict::Info, found, expected: String::new() }
    }
}

/// A tensor in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Values that are no numbers.
    pub nan: usize,
    /// Values that are infinite.
    pub infinite: usize,
    /// The least of the others.
    pub min: f64,
    /// The greatest of the others.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Statistics {
    /// Of these values.
    pub fn of(values: &[f32]) -> Self {
        let finite = || values.iter().map(|&value| f64::from(value)).filter(|value| value.is_finite());
        let count = finite().count();
        let nan = values.iter().filter(|value| value.is_nan()).count();
        if count == 0 {
            return Statistics { nan, infinite: values.len() - nan, ..Statistics::default() };
        }
        let mean = finite().sum::<f64>() / count as f64;
        let variance = finite().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64;
        Statistics {
            nan,
            infinite: values.len() - nan - count,
            min: finite().fold(f64::INFINITY, f64::min),
            max: finite().fold(f64::NEG_INFINITY, f64::max),
            mean,
            deviation: variance.sqrt(),
        }
    }

    /// Whether all values are numbers, and finite.
    pub fn is_finite(&self) -> bool {
        self.nan + self.infinite == 0
    }
}

/// A trained UNet sees the noise in pure noise, and nearly nothing else; one whose weights were mixed up does not.
const NOISE_COSINE: f64 = 0.9;

/// Latents times the scale of 0.18215 are made to have a deviation of about one.
const LATENT_DEVIATION: (f64, f64) = (0.3, 3.0);

/// A picture whose brightest value is below this is black, one with less deviation flat, of 255.
const BLACK: u8 = 8;
const FLAT: f64 = 4.0;

/// More values than this at the ends of the range are a picture that was cut off.
const CLIPPED: f64 = 0.3;

/// Neighbours in a picture resemble each other; in noise they do not.
const NEIGHBOURS: f64 = 0.5;

/// What the UNet predicts for the first, pure noise.
pub fn sees_noise(noise: &[f32], predicted: &[f32]) -> Check {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(noise, predicted) / (dot(noise, noise) * dot(predicted, predicted)).sqrt();
    let expected = format!("over {NOISE_COSINE}: a trained UNet sees the noise in pure noise; mixed-up weights do not");
    Check::judge("noise", cosine > NOISE_COSINE, format!("cosine {cosine:.4} of predicted and drawn noise"), expected)
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
        Check::judge(
            "not clipped",
            clipped <= CLIPPED,
            format!("{:.1} % of values at 0 or 255", 100.0 * clipped),
            format!("at most {} %: more is burnt out", 100.0 * CLIPPED),
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
pub fn round_trip(latent: &[f32], again: &[f32]) -> Check {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = square(&mut latent.iter().zip(again).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let relative = difference / square(&mut latent.iter().map(|&value| f64::from(value)));
    Check::info("round trip", format!("decoded and encoded again, the latent differs by {:.1} %", 100.0 * relative))
}

/// Latents of two renders of the same settings.
pub fn same_latents(a: &[f32], b: &[f32]) -> Check {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    if bits(a) == bits(b) {
        return Check::info("latents", "bit-identical: UNet and text encoder draw the same".into());
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let relative = difference / norm(&mut a.iter().map(|&value| f64::from(value)));
    Check::info("latents", format!("different, by {:.3} %", 100.0 * relative))
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
        assert_eq!(verdicts(&of(|_, _| 0)), ["not black", "not flat", "not clipped"]);
        assert_eq!(verdicts(&of(|_, _| 128)), ["not flat"]);
        assert_eq!(verdicts(&of(|x, y| (((x * 7919 + y * 104_729) * 2_654_435_761) >> 7) as u8)), ["not noise"]);
    }

    #[test]
    fn statistics_count_what_is_no_number() {
        let found = Statistics::of(&[1.0, f32::NAN, 3.0, f32::INFINITY]);
        assert_eq!((found.nan, found.infinite, found.mean, found.deviation), (1, 1, 2.0, 1.0));
        assert!(!found.is_finite());
        assert!(Statistics::of(&[0.0]).is_finite());
    }

    #[test]
    fn noise_is_recognised() {
        assert_eq!(sees_noise(&[1.0, -2.0, 3.0], &[1.0, -2.1, 3.0]).verdict, Verdict::Pass);
        assert_eq!(sees_noise(&[1.0, -2.0, 3.0], &[3.0, 2.0, 1.0]).verdict, Verdict::Fail);
        assert_eq!(sees_noise(&[1.0, -2.0], &[f32::NAN, 0.0]).verdict, Verdict::Fail);
    }
}
