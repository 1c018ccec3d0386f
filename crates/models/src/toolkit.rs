//! The numbers by which users of Stable Diffusion WebUI Model Toolkit know models, such as `2020/2982/0130` of UNet, VAE and
//! text encoder.
//!
//! Each is the sum of sigmoid(x) - 0.5 of the component's values in half precision, compared with that of SD v1. The formula
//! and the numbers are those of its `toolkit.py` (072e56a). It adds in single precision, so that the last digit can be another.
//! Different files can have the same number.

use crate::Component;
use crate::hash::TensorValues;

/// The sums of SD v1, and of the text encoder of SD v2.
const UNET: f64 = -6131.5400;
const VAE: f64 = 17870.7051;
const CLIP: f64 = -2097.8596;
const OPEN_CLIP: f64 = -8757.5630;

/// What a relative difference of 1 is, and of SD v1's text encoder.
const SCALE: f64 = 10_000.0;
const CLIP_SCALE: f64 = 1_000_000.0;

/// The numbers wrap: four digits are printed.
const DIGITS: f64 = 10_000.0;
const WRAP: f64 = 5_000.0;

/// The numbers of well-known VAEs.
const VAES: &[(&str, &str)] = &[
    ("0000", "that of SD v1"),
    ("0869", "ft-MSE (SD v2)"),
    ("2982", "NAI"),
    ("0155", "Waifu Diffusion, the first"),
    ("0041", "Waifu Diffusion, the second"),
];

/// The numbers of well-known text encoders.
const CLIPS: &[(&str, &str)] = &[("0000", "that of SD v1")];
const OPEN_CLIPS: &[(&str, &str)] = &[("1141", "that of SD v2"), ("2543", "Waifu Diffusion 1.4")];

/// The sums of the components of a file.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Sums {
    unet: f64,
    vae: f64,
    clip: f64,
    open_clip: f64,
}

impl Sums {
    /// Adds a tensor, by its key in LDM names.
    pub fn add(&mut self, component: Component, key: &str, values: &TensorValues) {
        match component {
            Component::Unet => self.unet += values.sigmoids,
            Component::Vae if key.contains("encoder.") || key.contains("decoder.") => self.vae += values.sigmoids,
            Component::TextEncoder if key.contains("mlp.") && !key.contains(".23.") => {
                match key.contains("resblocks") {
                    true => self.open_clip += values.sigmoids,
                    false => self.clip += values.sigmoids,
                }
            }
            _ => {}
        }
    }

    /// The number of the VAE; `----` without one.
    pub fn vae(&self) -> String {
        number(self.vae, VAE, SCALE)
    }

    /// The number of the text encoder; `----` without one.
    fn text_encoder(&self) -> String {
        match self.open_clip == 0.0 {
            true => number(self.clip, CLIP, CLIP_SCALE),
            false => number(self.open_clip, OPEN_CLIP, SCALE),
        }
    }

    /// The well-known text encoder with the number of this one; see [`text_encoder_name`].
    pub fn text_encoder_name(&self) -> Option<&'static str> {
        text_encoder_name(&self.text_encoder(), self.open_clip != 0.0)
    }

    /// The numbers of UNet, VAE and text encoder: `2020/2982/0130`.
    pub fn to_text(&self) -> String {
        format!("{}/{}/{}", number(self.unet, UNET, SCALE), self.vae(), self.text_encoder())
    }
}

fn number(sum: f64, reference: f64, scale: f64) -> String {
    if sum == 0.0 || !sum.is_finite() {
        return "----".to_owned();
    }
    let mut number = ((sum / reference - 1.0).abs() * scale).trunc();
    if number >= DIGITS {
        // The smallest number of steps that leads below the limit.
        number -= ((number - DIGITS) / WRAP).floor() * WRAP + WRAP;
    }
    format!("{number:04.0}")
}

/// Returns the well-known VAE with this number, or with the next one, as the toolkit does: a hint, because different files can
/// have it.
pub fn vae_name(number: &str) -> Option<&'static str> {
    name(VAES, number)
}

/// Returns the well-known text encoder with this number, of CLIP ViT-L or of OpenCLIP, as [`vae_name`].
pub fn text_encoder_name(number: &str, is_open_clip: bool) -> Option<&'static str> {
    name(if is_open_clip { OPEN_CLIPS } else { CLIPS }, number)
}

fn name(known: &[(&str, &'static str)], number: &str) -> Option<&'static str> {
    let number: i32 = number.parse().ok()?;
    let is_near = |known: &str| known.parse::<i32>().is_ok_and(|known| (known - number).abs() <= 1);
    known.iter().find(|(known, _)| is_near(known)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_and_wrap() {
        assert_eq!(number(VAE, VAE, SCALE), "0000");
        assert_eq!(number(VAE * 1.29825, VAE, SCALE), "2982");
        assert_eq!(number(VAE * 0.70175, VAE, SCALE), "2982");
        for (factor, expected) in [(1.99995, "9999"), (2.00005, "5000"), (2.49995, "9999"), (2.50005, "5000")] {
            assert_eq!(number(VAE * factor, VAE, SCALE), expected, "{factor}");
        }
        assert_eq!(number(0.0, VAE, SCALE), "----");
        assert_eq!(number(f64::NAN, VAE, SCALE), "----");
    }

    #[test]
    fn names_what_has_a_known_number_or_the_next() {
        assert_eq!(["2981", "2982", "2983", "2984"].map(vae_name), [Some("NAI"), Some("NAI"), Some("NAI"), None]);
        assert_eq!(["0000", "9999", "----", ""].map(vae_name), [Some("that of SD v1"), None, None, None]);
        assert_eq!(text_encoder_name("1141", true), Some("that of SD v2"));
        assert_eq!(text_encoder_name("1141", false), None);
    }
}
