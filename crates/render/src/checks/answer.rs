//! Checks the UNet's answer to pure noise, against what a model of its kind predicts.

use super::statistics::{Statistics, cosine};
use super::{Check, neighbors};
use crate::sampling::Denoiser;

/// Minimum cosine similarity between pure noise and the prediction of a model for epsilon. A trained UNet predicts pure
/// noise almost exactly.
const NOISE_COSINE: f64 = 0.9;

/// Allowed standard deviation of a prediction of noise. The noise has 1; guidance may scale the prediction.
const NOISE_DEVIATION: (f64, f64) = (0.5, 2.0);

/// Maximum cosine similarity between pure noise and the prediction of a model for velocity. From pure noise, the velocity
/// is almost the negative of a blurred image, which has nothing to do with the noise.
const IMAGE_COSINE: f64 = 0.7;

/// Minimum correlation of neighboring values of a blurred image.
const SMOOTH: f64 = 0.4;

/// Minimum cosine similarity between noise that is added to the latent of an encoded picture and the noise that the UNet
/// finds. The trained model has 0.98.
const ENCODED_COSINE: f64 = 0.75;

/// The same for the latent that the UNet has made. A UNet that finds so much in its own latents, but not in those of the
/// VAE, works; damaged ones had at most 0.85.
const OWN_COSINE: f64 = 0.9;

/// Checks the noise that the UNet finds in a latent of the VAE, and names the cause if it is too little.
pub(crate) fn denoising(encoded: f64, own: f64) -> Check {
    let passed = encoded > ENCODED_COSINE;
    let mut found = format!("cosine {encoded:.4} between noise that was added to a picture and what the UNet finds");
    if !passed {
        found.push_str(&match own > OWN_COSINE {
            _ if encoded.is_nan() => ": the VAE or the UNet computes NaN".to_owned(),
            true => format!(", {own:.4} in its own latent: probably the VAE is not for this model"),
            false => format!(
                ", {own:.4} in its own latent: probably weights of the UNet are swapped or damaged, or come from several \
                 models or training states"
            ),
        });
    }
    Check::judge("denoising", passed, found, format!("over {ENCODED_COSINE}: a UNet knows the latents of its VAE"))
}

/// Checks the UNet's prediction for pure noise, without guidance. `width` is that of the latent.
pub(crate) fn answer(noise: &[f32], predicted: &[f32], width: usize, denoiser: Denoiser) -> Check {
    let (cosine, deviation) = (cosine(noise, predicted), Statistics::of(predicted).deviation);
    let smoothness = smoothness(noise, predicted, width);
    let is_smooth = smoothness > SMOOTH && cosine.abs() < IMAGE_COSINE && deviation > 1e-3;
    let (least, most) = NOISE_DEVIATION;
    let is_noise = cosine > NOISE_COSINE && (least..=most).contains(&deviation);
    match denoiser {
        Denoiser::Epsilon => {
            let mut found = format!("cosine {cosine:.4} between predicted and drawn noise, deviation {deviation:.3}");
            if !is_noise && is_smooth {
                found.push_str(&format!(
                    "; the answer is a smooth image (neighbors correlate by {smoothness:.2}): the model predicts \
                     velocity, but nothing marks it as v-prediction"
                ));
            }
            let why = "a trained UNet predicts pure noise; one with untrained, swapped or misnamed weights does not";
            let expected = format!("cosine over {NOISE_COSINE}, deviation {least} to {most}: {why}");
            Check::judge("noise", is_noise, found, expected)
        }
        Denoiser::Velocity | Denoiser::Edm { .. } | Denoiser::EdmVelocity { .. } => {
            let mut found = format!(
                "cosine {cosine:.4} between prediction and drawn noise, neighboring values correlate by {smoothness:.2}"
            );
            if is_noise {
                found.push_str("; the answer is the noise: the model predicts epsilon, but is marked otherwise");
            }
            let why = "from pure noise, the prediction is a blurred image; it is noise if the model predicts epsilon or \
                       has untrained, swapped or misnamed weights";
            let expected = format!("cosine below {IMAGE_COSINE}, correlation over {SMOOTH}: {why}");
            Check::judge("noise", is_smooth, found, expected)
        }
    }
}

/// Returns the correlation of neighboring values in what remains of a prediction without the noise.
fn smoothness(noise: &[f32], predicted: &[f32], width: usize) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let share = product(noise, predicted) / product(noise, noise);
    let rest: Vec<f32> = predicted
        .iter()
        .zip(noise)
        .map(|(value, noise)| (f64::from(*value) - share * f64::from(*noise)) as f32)
        .collect();
    // An answer that is noise leaves only rounding errors.
    let (rest_deviation, deviation) = (Statistics::of(&rest).deviation, Statistics::of(predicted).deviation);
    if rest_deviation > 0.01 * deviation { neighbors(&rest, width, 1) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Verdict;
    use crate::sampling::{Generator, NoiseSource};

    const WIDTH: usize = 16;

    fn smooth() -> Vec<f32> {
        (0..4 * WIDTH * WIDTH)
            .map(|index| libm::sinf((index % WIDTH) as f32 * 0.3) + (index / WIDTH) as f32 * 0.01)
            .collect()
    }

    /// The verdict and the finding for an answer of a share of the noise and of an image.
    fn found(of_noise: f32, of_image: f32, denoiser: Denoiser) -> (Verdict, String) {
        let noise = Generator::new(NoiseSource::Cpu, 3).normal(4 * WIDTH * WIDTH);
        let predicted: Vec<f32> =
            noise.iter().zip(smooth()).map(|(noise, image)| of_noise * noise + of_image * image).collect();
        let check = answer(&noise, &predicted, WIDTH, denoiser);
        (check.verdict, check.found)
    }

    #[test]
    fn accepts_the_answers_of_each_kind_of_model() {
        assert_eq!(found(1.0, 0.05, Denoiser::Epsilon).0, Verdict::Pass);
        for denoiser in [Denoiser::Velocity, Denoiser::Edm { data: 0.5 }, Denoiser::EdmVelocity { data: 1.0 }] {
            assert_eq!(found(0.07, -0.5, denoiser).0, Verdict::Pass, "{denoiser:?}");
        }
    }

    #[test]
    fn names_the_cause_if_the_mark_is_wrong() {
        let (verdict, found_for_v) = found(1.0, 0.0, Denoiser::Velocity);
        assert!(verdict == Verdict::Fail && found_for_v.contains("predicts epsilon"), "{found_for_v}");
        let (verdict, found_for_epsilon) = found(0.07, -0.5, Denoiser::Epsilon);
        assert!(verdict == Verdict::Fail && found_for_epsilon.contains("predicts velocity"), "{found_for_epsilon}");
    }

    #[test]
    fn names_the_cause_of_noise_that_is_not_found() {
        assert_eq!(denoising(0.978, 0.3).verdict, Verdict::Pass);
        let (of_vae, of_unet) = (denoising(0.5, 0.95), denoising(0.55, 0.8));
        assert_eq!([of_vae.verdict, of_unet.verdict], [Verdict::Fail; 2]);
        assert!(of_vae.found.contains("the VAE is not for this model"), "{}", of_vae.found);
        assert!(of_unet.found.contains("weights of the UNet are swapped or damaged"), "{}", of_unet.found);
        let of_nan = denoising(f64::NAN, 0.9);
        assert_eq!(of_nan.verdict, Verdict::Fail);
        assert!(of_nan.found.ends_with("the VAE or the UNet computes NaN"), "{}", of_nan.found);
    }

    #[test]
    fn rejects_answers_of_untrained_models() {
        let noise = Generator::new(NoiseSource::Cpu, 3).normal(4 * WIDTH * WIDTH);
        let other = Generator::new(NoiseSource::Cpu, 4).normal(4 * WIDTH * WIDTH);
        for denoiser in [Denoiser::Epsilon, Denoiser::Velocity] {
            for predicted in [other.clone(), vec![0.0; other.len()], vec![f32::NAN; other.len()]] {
                let check = answer(&noise, &predicted, WIDTH, denoiser);
                assert_eq!(check.verdict, Verdict::Fail, "{denoiser:?}");
                assert!(!check.found.contains("the model predicts"), "{}", check.found);
            }
        }
    }
}
