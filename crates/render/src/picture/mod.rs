//! Pictures: conversion from a decoded latent, and PNG files with `parameters`.

mod compare;
mod sheet;

use std::io::Cursor;

use candle_core::{DType, Tensor};

use crate::errors::from_candle;
pub use compare::{PictureComparison, compare};
pub use sheet::contact_sheet;
use trinart_ckpt_formats::error::{Error, Result};

/// The PNG text field of WebUI's infotext.
const PARAMETERS: &str = "parameters";

/// Maximum decoded size of a PNG in bytes: 4096 x 4096 pixels of 8-bit RGBA.
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

    /// Decodes a PNG and its `parameters`. Ignores transparency.
    ///
    /// Fails if it is not a readable PNG or larger than 4096 x 4096 pixels of RGBA. Ignores `parameters`
    /// that are damaged or larger than a megabyte.
    pub fn from_png(bytes: &[u8]) -> Result<(Self, Option<String>)> {
        let fail = |error: png::DecodingError| Error::malformed(format!("not a readable PNG: {error}"));
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: DECODED_BYTES });
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(fail)?;
        let size = reader.output_buffer_size().filter(|&size| size <= DECODED_BYTES);
        let size = size.ok_or_else(|| Error::limit(format!("the decoded picture exceeds {DECODED_BYTES} bytes")))?;
        let mut pixels = vec![0; size];
        let info = reader.next_frame(&mut pixels).map_err(fail)?;
        let rgb = match info.color_type {
            png::ColorType::Grayscale => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
            png::ColorType::GrayscaleAlpha => pixels.as_chunks().0.iter().flat_map(|&[gray, _]| [gray; 3]).collect(),
            png::ColorType::Rgb => pixels,
            png::ColorType::Rgba => {
                pixels.as_chunks().0.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]).collect()
            }
            png::ColorType::Indexed => return Err(Error::internal("a palette that the PNG decoder did not expand")),
        };
        let picture = Picture { width: info.width as usize, height: info.height as usize, rgb };
        // Text chunks may follow the pixels.
        reader.finish().map_err(fail)?;
        let info = reader.info();
        let latin = info.uncompressed_latin1_text.iter().find(|text| text.keyword == PARAMETERS);
        let unicode = info.utf8_text.iter().find(|text| text.keyword == PARAMETERS);
        // Ignore a damaged text chunk, because the pixels are valid without it.
        let text = latin.map(|text| text.text.clone()).or_else(|| {
            let mut text = unicode?.clone();
            // A compressed text can expand to a thousand times its size.
            text.decompress_text_with_limit(INFOTEXT_BYTES).ok()?;
            text.get_text().ok()
        });
        Ok((picture, text.filter(|text| text.len() <= INFOTEXT_BYTES)))
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
    fn clamps_colors_and_rounds_down() {
        let values = [-2.0_f32, -1.0, 0.0, 0.999, 1.0, f32::NAN];
        let decoded = Tensor::new(&values, &candle_core::Device::Cpu).unwrap().reshape((1, 3, 1, 2)).unwrap();
        let picture = Picture::from_decoded(&decoded).unwrap();
        assert_eq!(picture.rgb, [0, 127, 255, 0, 254, 0]);
    }
}
