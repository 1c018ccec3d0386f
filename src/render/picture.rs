//! Pictures: made of a decoded latent, written and read as PNG with their `parameters`.

use std::io::Cursor;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::render::weights::from_candle;

/// The field of a PNG that WebUI keeps its infotext in.
const PARAMETERS: &str = "parameters";

/// Bytes a picture may decode to: 8192 x 8192 in 8 bits of red, green, blue and alpha.
const DECODED_BYTES: usize = 8192 * 8192 * 4;

/// Red, green and blue, 8 bits each, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The picture of a decoded latent `[1, 3, height, width]` with colours between -1 and 1: cut off beyond, and
    /// rounded down, as WebUI does.
    pub fn from_decoded(decoded: &Tensor) -> Result<Self> {
        let convert = || {
            let (_, _, height, width) = decoded.dims4()?;
            let rows = decoded.to_dtype(DType::F32)?.squeeze(0)?.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
            Ok((width, height, rows))
        };
        let (width, height, values) = convert().map_err(from_candle)?;
        // What is no number becomes 0, as in a cast of numpy's.
        let rgb = values.into_iter().map(|value| (255.0 * ((value + 1.0) / 2.0).clamp(0.0, 1.0)) as u8).collect();
        Ok(Picture { width, height, rgb })
    }

    /// The colours as a decoder gives them, `[1, 3, height, width]`.
    pub fn to_tensor(&self, device: &candle_core::Device) -> Result<Tensor> {
        let values: Vec<f32> = self.rgb.iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect();
        let tensor = Tensor::from_vec(values, (self.height, self.width, 3), device);
        tensor.and_then(|it| it.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()).map_err(from_candle)
    }

    /// A PNG, the same bytes for the same picture and text.
    pub fn to_png(&self, parameters: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let side = |len: usize| u32::try_from(len).map_err(|_| Error::limit("a picture wider than PNG can say"));
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // As PIL does: the older kind of text where its alphabet is enough.
        let is_latin = parameters.chars().all(|it| u32::from(it) < 256);
        let added = match is_latin {
            _ if parameters.is_empty() => Ok(()),
            true => encoder.add_text_chunk(PARAMETERS.into(), parameters.into()),
            false => encoder.add_itxt_chunk(PARAMETERS.into(), parameters.into()),
        };
        let fail = |error: png::EncodingError| Error::unsupported(format!("cannot be written as PNG: {error}"));
        added.map_err(fail)?;
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&self.rgb).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(bytes)
    }

    /// Reads a PNG, and its `parameters`. Transparency is left out.
    pub fn from_png(bytes: &[u8]) -> Result<(Self, Option<String>)> {
        let fail = |error: png::DecodingError| Error::malformed(format!("not a readable PNG: {error}"));
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: DECODED_BYTES });
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(fail)?;
        let size = reader.output_buffer_size().filter(|&size| size <= DECODED_BYTES);
        let size = size.ok_or_else(|| Error::limit(format!("a picture of more than {DECODED_BYTES} bytes")))?;
        let mut pixels = vec![0; size];
        let info = reader.next_frame(&mut pixels).map_err(fail)?;
        let samples = info.color_type.samples();
        let rgb = pixels.chunks_exact(samples).flat_map(|pixel| match pixel {
            [gray] | [gray, _] => [*gray; 3],
            [red, green, blue, ..] => [*red, *green, *blue],
            [] => [0; 3],
        });
        let picture = Picture { width: info.width as usize, height: info.height as usize, rgb: rgb.collect() };
        // Texts may stand behind the pixels.
        reader.finish().map_err(fail)?;
        let info = reader.info();
        let latin = info.uncompressed_latin1_text.iter().find(|text| text.keyword == PARAMETERS);
        let unicode = info.utf8_text.iter().find(|text| text.keyword == PARAMETERS);
        let text = latin.map(|text| text.text.clone());
        Ok((picture, text.or_else(|| unicode.and_then(|text| text.get_text().ok()))))
    }
}

/// How two pictures of one size compare.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// The peak signal-to-noise ratio in decibels; `None` for pictures that are the same.
    pub psnr: Option<f64>,
    /// The structural similarity (Wang et al., 2004), with a Gaussian window of 11 pixels, over all channels.
    pub ssim: f64,
    /// The greatest difference of a value.
    pub max_difference: u8,
    /// The share of values that differ by more than 2.
    pub changed: f64,
}

/// Compares pictures; of two sizes, an error.
pub fn compare(a: &Picture, b: &Picture) -> Result<Comparison> {
    if (a.width, a.height) != (b.width, b.height) {
        let found = format!("{}x{} and {}x{} pixels cannot be compared", a.width, a.height, b.width, b.height);
        return Err(Error::mismatch(found));
    }
    let differences = || a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b));
    let count = a.rgb.len().max(1) as f64;
    let error = differences().map(|it| f64::from(it).powi(2)).sum::<f64>() / count;
    let channel = |picture: &Picture, channel: usize| -> Vec<f64> {
        picture.rgb.iter().skip(channel).step_by(3).map(|&value| f64::from(value)).collect()
    };
    let ssim = (0..3).map(|index| ssim(&channel(a, index), &channel(b, index), a.width)).sum::<f64>() / 3.0;
    Ok(Comparison {
        psnr: (error > 0.0).then(|| 10.0 * (255.0 * 255.0 / error).log10()),
        ssim,
        max_difference: differences().max().unwrap_or_default(),
        changed: differences().filter(|&it| it > 2).count() as f64 / count,
    })
}

/// The mean over all places whose window lies within the picture.
fn ssim(a: &[f64], b: &[f64], width: usize) -> f64 {
    const RADIUS: usize = 5;
    let weight = |offset: usize| (-(offset as f64 - RADIUS as f64).powi(2) / (2.0 * 1.5 * 1.5)).exp();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(weight).collect();
    let total: f64 = weights.iter().sum();
    let height = a.len().checked_div(width).unwrap_or_default();
    if width <= 2 * RADIUS || height <= 2 * RADIUS {
        return if a == b { 1.0 } else { 0.0 };
    }
    // Rows first, then columns.
    let blur = |values: Vec<f64>| -> Vec<f64> {
        let rows: Vec<f64> = values
            .chunks_exact(width)
            .flat_map(|row| row.windows(weights.len()))
            .map(|window| window.iter().zip(&weights).map(|(value, weight)| value * weight).sum::<f64>() / total)
            .collect();
        let narrow = width - 2 * RADIUS;
        let at = |row: usize, column: usize| rows.get(row * narrow + column).copied().unwrap_or_default();
        let column_sum = |row: usize, column: usize| {
            weights.iter().enumerate().map(|(offset, weight)| at(row + offset, column) * weight).sum::<f64>() / total
        };
        (0..height - 2 * RADIUS)
            .flat_map(|row| (0..narrow).map(move |column| (row, column)))
            .map(|(row, column)| column_sum(row, column))
            .collect()
    };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<f64>>();
    let (mean_a, mean_b) = (blur(a.to_vec()), blur(b.to_vec()));
    let (square_a, square_b, both) = (blur(product(a, a)), blur(product(b, b)), blur(product(a, b)));
    let (c1, c2) = ((0.01 * 255.0_f64).powi(2), (0.03 * 255.0_f64).powi(2));
    let means = mean_a.iter().zip(&mean_b);
    let squares = square_a.iter().zip(&square_b).zip(&both);
    let places = means.zip(squares).map(|((a, b), ((aa, bb), ab))| {
        (2.0 * a * b + c1) * (2.0 * (ab - a * b) + c2) / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))
    });
    places.sum::<f64>() / mean_a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(shift: u8) -> Picture {
        let value = |index: usize| (index * 37 % 200) as u8 + shift;
        Picture { width: 16, height: 16, rgb: (0..16 * 16 * 3).map(value).collect() }
    }

    #[test]
    fn a_png_comes_back_with_its_text_in_any_alphabet() {
        for text in ["a cat\nSteps: 1", "naïve", "猫 🐱", ""] {
            let bytes = picture(0).to_png(text).unwrap();
            assert_eq!(bytes, picture(0).to_png(text).unwrap());
            let (found, parameters) = Picture::from_png(&bytes).unwrap();
            assert_eq!(found, picture(0));
            assert_eq!(parameters.unwrap_or_default(), text);
        }
        let bytes = picture(0).to_png("x").unwrap();
        assert!(Picture::from_png(&bytes[..bytes.len() / 2]).is_err());
        assert!(Picture::from_png(b"GIF89a").is_err());
    }

    #[test]
    fn the_same_picture_is_the_same_and_a_shift_is_seen() {
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

    #[test]
    fn colours_are_cut_off_and_rounded_down() {
        let values = [-2.0_f32, -1.0, 0.0, 0.999, 1.0, f32::NAN];
        let decoded = Tensor::new(&values, &candle_core::Device::Cpu).unwrap().reshape((1, 3, 1, 2)).unwrap();
        let picture = Picture::from_decoded(&decoded).unwrap();
        assert_eq!(picture.rgb, [0, 127, 255, 0, 254, 0]);
    }
}
