//! Decodes pictures of the formats that WebUI saves, with their parameters.

use std::io::Cursor;

use image_webp::WebPDecoder;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::exif::user_comment;
use super::{DECODED_BYTES, INFOTEXT_BYTES, PARAMETERS, Picture};
use trinart_ckpt_formats::error::{Error, Result};

/// Maximum width and height of a JPEG. Its decoder allocates before it reports the size.
const JPEG_SIDE: usize = 4096;

/// Texts of PNG files by which other programs are recognized, with the program. The first one that is present counts.
const PROGRAMS: [(&str, &str); 9] = [
    ("invokeai_metadata", "InvokeAI"),
    ("invokeai_graph", "InvokeAI"),
    ("sd-metadata", "InvokeAI"),
    ("Dream", "InvokeAI"),
    ("fooocus_scheme", "Fooocus"),
    ("workflow", "ComfyUI"),
    ("prompt", "ComfyUI"),
    ("generation_data", "TensorArt"),
    ("XML:com.adobe.xmp", "Draw Things or an editor (XMP)"),
];

/// A decoded picture file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodedPicture {
    /// The picture.
    pub picture: Picture,
    /// The parameters as WebUI writes them.
    pub parameters: Option<String>,
    /// Another program that the file has parameters of, in a form that is not WebUI's.
    pub program: Option<&'static str>,
}

/// Whether a file begins as a picture of a supported format does. Needs 12 bytes.
pub fn is_picture(bytes: &[u8]) -> bool {
    is_png(bytes) || is_jpeg(bytes) || is_webp(bytes)
}

fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xd8\xff")
}

fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

/// Returns the name of a format of pictures that cannot be read.
fn unsupported_format(bytes: &[u8]) -> Option<&'static str> {
    let brand = bytes.get(4..8).filter(|kind| *kind == b"ftyp").and_then(|_| bytes.get(8..12));
    match brand {
        Some(b"avif" | b"avis") => return Some("AVIF"),
        Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1") => return Some("HEIF"),
        _ => {}
    }
    let begins: [(&[u8], &str); 6] = [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
    ];
    begins.iter().find(|(begin, _)| bytes.starts_with(begin)).map(|(_, name)| *name)
}

impl DecodedPicture {
    /// Decodes a PNG, JPEG or WebP file and its parameters: the text `parameters` of a PNG, or the user comment in the
    /// EXIF data. Ignores transparency.
    ///
    /// Fails if the file is not readable or larger than 4096 x 4096 pixels. Ignores parameters that are damaged or larger
    /// than a megabyte.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if let Some(name) = unsupported_format(bytes) {
            return Err(Error::unsupported(format!("{name} pictures are not supported: convert it to PNG")));
        }
        let decoded = if is_jpeg(bytes) {
            from_jpeg(bytes)
        } else if is_webp(bytes) {
            from_webp(bytes)
        } else {
            from_png(bytes)
        };
        let decoded = decoded?;
        Ok(DecodedPicture { parameters: decoded.parameters.filter(|text| text.len() <= INFOTEXT_BYTES), ..decoded })
    }
}

impl Picture {
    /// Decodes a picture file and its parameters; see [`DecodedPicture::from_bytes`].
    pub fn from_png(bytes: &[u8]) -> Result<(Self, Option<String>)> {
        let DecodedPicture { picture, parameters, .. } = DecodedPicture::from_bytes(bytes)?;
        Ok((picture, parameters))
    }
}

/// Returns the three colors of pixels with this many channels.
fn rgb(pixels: Vec<u8>, channels: usize) -> Result<Vec<u8>> {
    Ok(match channels {
        1 => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        2 => pixels.as_chunks().0.iter().flat_map(|&[gray, _]| [gray; 3]).collect(),
        3 => pixels,
        4 => pixels.as_chunks().0.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]).collect(),
        _ => return Err(Error::internal(format!("a picture of {channels} channels"))),
    })
}

fn from_jpeg(bytes: &[u8]) -> Result<DecodedPicture> {
    let fail = |error| Error::malformed(format!("not a readable JPEG: {error:?}"));
    let options = DecoderOptions::default().set_max_width(JPEG_SIDE).set_max_height(JPEG_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let pixels = decoder.decode().map_err(fail)?;
    let info = decoder.info();
    let (width, height) = info.map_or((0, 0), |info| (usize::from(info.width), usize::from(info.height)));
    let channels = pixels.len().checked_div(width * height).unwrap_or(0);
    let parameters = decoder.exif().and_then(|exif| user_comment(exif));
    Ok(DecodedPicture { picture: Picture { width, height, rgb: rgb(pixels, channels)? }, parameters, program: None })
}

fn from_webp(bytes: &[u8]) -> Result<DecodedPicture> {
    let fail = |error| Error::malformed(format!("not a readable WebP: {error}"));
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(fail)?;
    decoder.set_memory_limit(DECODED_BYTES);
    let (width, height) = decoder.dimensions();
    let size = decoder.output_buffer_size().filter(|&size| size <= DECODED_BYTES);
    let size = size.ok_or_else(|| Error::limit(format!("the decoded picture exceeds {DECODED_BYTES} bytes")))?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(fail)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let parameters = decoder.exif_metadata().ok().flatten().and_then(|exif| user_comment(&exif));
    let picture = Picture { width: width as usize, height: height as usize, rgb: rgb(pixels, channels)? };
    Ok(DecodedPicture { picture, parameters, program: None })
}

fn from_png(bytes: &[u8]) -> Result<DecodedPicture> {
    let fail = |error: png::DecodingError| Error::malformed(format!("not a readable PNG, JPEG or WebP: {error}"));
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: DECODED_BYTES });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(fail)?;
    let size = reader.output_buffer_size().filter(|&size| size <= DECODED_BYTES);
    let size = size.ok_or_else(|| Error::limit(format!("the decoded picture exceeds {DECODED_BYTES} bytes")))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(fail)?;
    let picture = Picture {
        width: frame.width as usize,
        height: frame.height as usize,
        rgb: rgb(pixels, frame.color_type.samples())?,
    };
    // Text chunks may follow the pixels.
    reader.finish().map_err(fail)?;
    let info = reader.info();
    let text = |wanted: &str| png_text(info, wanted);
    let exif = || user_comment(info.exif_metadata.as_deref()?);
    let parameters = text(PARAMETERS).or_else(exif).or_else(|| novel_ai(info));
    let has = |keyword: &str| {
        let latin = info.uncompressed_latin1_text.iter().any(|text| text.keyword == keyword);
        let compressed = info.compressed_latin1_text.iter().any(|text| text.keyword == keyword);
        latin || compressed || info.utf8_text.iter().any(|text| text.keyword == keyword)
    };
    let program = PROGRAMS.iter().find(|(keyword, _)| has(keyword)).map(|(_, program)| *program);
    Ok(DecodedPicture { picture, parameters, program })
}

/// Returns a text of a PNG: uncompressed, compressed or Unicode. Ignores a damaged text, because the pixels are valid
/// without it, and one that expands to more than the limit.
fn png_text(info: &png::Info<'_>, wanted: &str) -> Option<String> {
    if let Some(latin) = info.uncompressed_latin1_text.iter().find(|text| text.keyword == wanted) {
        return Some(latin.text.clone());
    }
    if let Some(compressed) = info.compressed_latin1_text.iter().find(|text| text.keyword == wanted) {
        let mut text = compressed.clone();
        text.decompress_text_with_limit(INFOTEXT_BYTES).ok()?;
        return text.get_text().ok();
    }
    let mut text = info.utf8_text.iter().find(|text| text.keyword == wanted)?.clone();
    text.decompress_text_with_limit(INFOTEXT_BYTES).ok()?;
    text.get_text().ok()
}

/// Converts the parameters of NovelAI as WebUI does.
fn novel_ai(info: &png::Info<'_>) -> Option<String> {
    png_text(info, "Software").filter(|software| software == "NovelAI")?;
    let comment: serde_json::Value = serde_json::from_str(&png_text(info, "Comment")?).ok()?;
    let description = png_text(info, "Description")?;
    let text = |name: &str| match comment.get(name)? {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let sampler = text("sampler").unwrap_or_default();
    let (uc, steps, scale, seed) = (text("uc")?, text("steps")?, text("scale")?, text("seed")?);
    let (width, height) = (info.width, info.height);
    Some(format!(
        "{description}\nNegative prompt: {uc}\nSteps: {steps}, Sampler: {sampler}, CFG scale: {scale}, Seed: {seed}, Size: \
         {width}x{height}, Clip skip: 2, ENSD: 31337"
    ))
}
