//! Metrics of the difference between two pictures.

use super::Picture;
use trinart_ckpt_formats::error::{Error, Result};

/// The difference between two pictures of the same size.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PictureComparison {
    /// The peak signal-to-noise ratio in decibels; `None` for identical pictures.
    pub psnr: Option<f64>,
    /// The structural similarity (Wang et al., 2004) with a Gaussian window of 11 pixels, averaged over the channels.
    pub ssim: f64,
    /// The maximum difference between two values at the same position.
    pub max_difference: u8,
    /// The share of values that differ by more than 2.
    pub changed: f64,
}

/// Amplification of a difference that is drawn. Makes a difference of 1 in 255 visible.
const AMPLIFIED: u8 = 8;

/// Draws the difference of two pictures of the same size, amplified eight times.
pub fn difference(a: &Picture, b: &Picture) -> Picture {
    let values = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b).saturating_mul(AMPLIFIED));
    Picture { width: a.width, height: a.height, rgb: values.collect() }
}

/// Compares two pictures. Fails if their sizes differ.
pub fn compare(a: &Picture, b: &Picture) -> Result<PictureComparison> {
    if (a.width, a.height) != (b.width, b.height) {
        let found = format!("cannot compare pictures of {}x{} and {}x{} pixels", a.width, a.height, b.width, b.height);
        return Err(Error::mismatch(found));
    }
    let differences = || a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b));
    let count = a.rgb.len().max(1) as f64;
    let error = differences().map(|it| f64::from(it).powi(2)).sum::<f64>() / count;
    let channel = |picture: &Picture, channel: usize| -> Vec<f64> {
        picture.rgb.iter().skip(channel).step_by(3).map(|&value| f64::from(value)).collect()
    };
    let ssim = (0..3).map(|index| ssim(&channel(a, index), &channel(b, index), a.width)).sum::<f64>() / 3.0;
    Ok(PictureComparison {
        psnr: (error > 0.0).then(|| 10.0 * libm::log10(255.0 * 255.0 / error)),
        ssim,
        max_difference: differences().max().unwrap_or(0),
        changed: differences().filter(|&it| it > 2).count() as f64 / count,
    })
}

/// Returns the mean SSIM of one channel, over all windows within the picture.
fn ssim(a: &[f64], b: &[f64], width: usize) -> f64 {
    const RADIUS: usize = 5;
    let weight = |offset: usize| libm::exp(-(offset as f64 - RADIUS as f64).powi(2) / (2.0 * 1.5 * 1.5));
    let weights: Vec<f64> = (0..=2 * RADIUS).map(weight).collect();
    let total: f64 = weights.iter().sum();
    // Without columns, there are no rows.
    let height = a.len().checked_div(width).unwrap_or(0);
    if width <= 2 * RADIUS || height <= 2 * RADIUS {
        return if a == b { 1.0 } else { 0.0 };
    }
    let blur = |values: Vec<f64>| -> Vec<f64> {
        let rows: Vec<f64> = values
            .chunks_exact(width)
            .flat_map(|row| row.windows(weights.len()))
            .map(|window| window.iter().zip(&weights).map(|(value, weight)| value * weight).sum::<f64>() / total)
            .collect();
        let narrow = width - 2 * RADIUS;
        // Each window covers 2 * RADIUS + 1 rows of a column, whose values are `narrow` apart.
        rows.windows(2 * RADIUS * narrow + 1)
            .map(|window| {
                window.iter().step_by(narrow).zip(&weights).map(|(it, weight)| it * weight).sum::<f64>() / total
            })
            .collect()
    };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<f64>>();
    let (mean_a, mean_b) = (blur(a.to_vec()), blur(b.to_vec()));
    let (square_a, square_b, both) = (blur(product(a, a)), blur(product(b, b)), blur(product(a, b)));
    let (c1, c2) = ((0.01 * 255.0_f64).powi(2), (0.03 * 255.0_f64).powi(2));
    let means = mean_a.iter().zip(&mean_b);
    let squares = square_a.iter().zip(&square_b).zip(&both);
    let windows = means.zip(squares).map(|((a, b), ((aa, bb), ab))| {
        (2.0 * a * b + c1) * (2.0 * (ab - a * b) + c2) / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))
    });
    windows.sum::<f64>() / mean_a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(shift: u8) -> Picture {
        let value = |index: usize| (index * 37 % 200) as u8 + shift;
        Picture { width: 16, height: 16, rgb: (0..16 * 16 * 3).map(value).collect() }
    }

    #[test]
    fn measures_identical_and_shifted_pictures() {
        let same = compare(&picture(0), &picture(0)).unwrap();
        assert_eq!((same.psnr, same.max_difference, same.changed), (None, 0, 0.0));
        assert!((same.ssim - 1.0).abs() < 1e-9);
        let shifted = compare(&picture(0), &picture(5)).unwrap();
        // 20 log10(255 / 5)
        assert!((shifted.psnr.unwrap() - 34.1514).abs() < 1e-3);
        assert_eq!((shifted.max_difference, shifted.changed), (5, 1.0));
        assert!(shifted.ssim > 0.99 && shifted.ssim < 1.0);
        let other = Picture { width: 8, height: 32, ..picture(0) };
        assert!(compare(&picture(0), &other).is_err());
    }
}
