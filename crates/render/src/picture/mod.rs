//! Pictures: conversion from a decoded latent, and picture files with WebUI's `parameters`.

mod compare;
mod decode;
mod exif;
mod sheet;

use candle_core::{DType, Tensor};

use crate::errors::from_candle;
pub use compare::{PictureComparison, compare, difference};
pub use decode::{DecodedPicture, is_picture};
pub use sheet::contact_sheet;
use trinart_ckpt_formats::error::{Error, Result};

/// The PNG text field of WebUI's infotext.
const PARAMETERS: &str = "parameters";

/// Maximum decoded size of a picture in bytes: 4096 x 4096 pixels of 8-bit RGBA.
const DECODED_BYTES: usize = 4096 * 4096 * 4;

/// Maximum size of the infotext in bytes, inflated. Long prompts have a few thousand.
const INFOTEXT_BYTES: usize = 1 << 20;

/// A picture of 8-bit RGB values, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Converts a decoded latent `[1, 3, height, width]` with colors between -1 and 1. Clamps and rounds down, as WebUI
    /// does.
    pub fn from_decoded(decoded: &Tensor) -> Result<Self> {
        let convert = || {
            let (_, _, height, width) = decoded.dims4()?;
            let rows = decoded.to_dtype(DType::F32)?.squeeze(0)?.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
            Ok((width, height, rows))
        };
        let (width, height, values) = convert().map_err(from_candle)?;
        // NaN becomes 0, as in numpy.
        let rgb = values.into_iter().map(|value| (255.0 * ((value + 1.0) / 2.0).clamp(0.0, 1.0)) as u8).collect();
        Ok(Picture { width, height, rgb })
    }

    /// Converts to colors between -1 and 1, `[1, 3, height, width]`: the input of
    /// [`Vae::encode`](crate::networks::Vae::encode).
    pub fn to_tensor(&self, device: &candle_core::Device) -> Result<Tensor> {
        let values: Vec<f32> = self.rgb.iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect();
        let tensor = Tensor::from_vec(values, (self.height, self.width, 3), device);
        tensor.and_then(|it| it.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()).map_err(from_candle)
    }

    /// Encodes the picture as PNG, with `parameters` unless they are empty. The output is deterministic.
    pub fn to_png(&self, parameters: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let side = |len: usize| u32::try_from(len).map_err(|_| Error::limit("the picture is too large for a PNG"));
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // Like PIL: a tEXt chunk if the text fits into Latin-1, otherwise an iTXt chunk.
        let is_latin = parameters.chars().all(|it| u32::from(it) < 256);
        let added = match is_latin {
            _ if parameters.is_empty() => Ok(()),
            true => encoder.add_text_chunk(PARAMETERS.into(), parameters.into()),
            false => encoder.add_itxt_chunk(PARAMETERS.into(), parameters.into()),
        };
        let fail = |error: png::EncodingError| Error::unsupported(format!("cannot encode as PNG: {error}"));
        added.map_err(fail)?;
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&self.rgb).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(shift: u8) -> Picture {
        let value = |index: usize| (index * 37 % 200) as u8 + shift;
        Picture { width: 16, height: 16, rgb: (0..16 * 16 * 3).map(value).collect() }
    }

    #[test]
    fn png_round_trip_keeps_pixels_and_any_text() {
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
    fn ignores_an_infotext_that_expands_beyond_the_limit() {
        let png = |len: usize| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            let mut text = png::text_metadata::ITXtChunk::new(PARAMETERS, "猫".repeat(len / 3));
            text.compress_text().unwrap();
            text.compressed = true;
            writer.write_text_chunk(&text).unwrap();
            writer.write_image_data(&[0; 3]).unwrap();
            writer.finish().unwrap();
            Picture::from_png(&bytes).unwrap().1.map(|text| text.len())
        };
        let most = INFOTEXT_BYTES / 3 * 3;
        assert_eq!(png(most), Some(most));
        assert_eq!(png(most + 3), None);
    }

    #[test]
    fn reads_compressed_parameters_and_names_other_programs() {
        let png = |add: fn(&mut png::Writer<&mut Vec<u8>>)| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            add(&mut writer);
            writer.write_image_data(&[0; 3]).unwrap();
            writer.finish().unwrap();
            DecodedPicture::from_bytes(&bytes).unwrap()
        };
        let found = png(|writer| {
            let mut text = png::text_metadata::ZTXtChunk::new(PARAMETERS, "a cat\nSteps: 1".repeat(100));
            text.compress_text().unwrap();
            writer.write_text_chunk(&text).unwrap();
        });
        assert_eq!(found.parameters.map(|text| text.len()), Some(1400));
        let found = png(|writer| {
            let text = png::text_metadata::TEXtChunk::new("workflow", "{}");
            writer.write_text_chunk(&text).unwrap();
        });
        assert_eq!((found.parameters, found.program), (None, Some("ComfyUI")));
        let found = png(|writer| {
            let json = r#"{"steps": 28, "sampler": "k_euler_ancestral", "seed": 5, "scale": 11.0, "uc": "bad"}"#;
            for (keyword, text) in [("Software", "NovelAI"), ("Description", "a cat"), ("Comment", json)] {
                writer.write_text_chunk(&png::text_metadata::TEXtChunk::new(keyword, text)).unwrap();
            }
        });
        let text = found.parameters.unwrap();
        assert!(
            text.starts_with("a cat\nNegative prompt: bad\nSteps: 28, Sampler: k_euler_ancestral, CFG scale: 11.0"),
            "{text}"
        );
    }

    #[test]
    fn clamps_colors_and_rounds_down() {
        let values = [-2.0_f32, -1.0, 0.0, 0.999, 1.0, f32::NAN];
        let decoded = Tensor::new(&values, &candle_core::Device::Cpu).unwrap().reshape((1, 3, 1, 2)).unwrap();
        let picture = Picture::from_decoded(&decoded).unwrap();
        assert_eq!(picture.rgb, [0, 127, 255, 0, 254, 0]);
    }
}
