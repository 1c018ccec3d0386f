//! Recognizes formats by their first bytes.

use super::numpy::NumpyFile;
use super::scanned_format::ScannedFormat;
use crate::containers;
use crate::containers::zip::{EndOfDirectory, LocalHeader};

/// What contains pickles at other places than its start.
pub(super) enum Archive {
    /// A zip.
    Zip,
    /// A tar.
    Tar,
    /// A NumPy array.
    Numpy,
}

/// How to scan bytes that begin like this.
pub(super) enum Content {
    /// An archive.
    Archive(Archive),
    /// A safetensors file.
    Safetensors,
    /// A gzip or zlib stream.
    Compressed(ScannedFormat),
    /// A format that is not scanned, because it can hold no pickle or cannot be opened.
    Other(ScannedFormat),
    /// None of these.
    Unknown,
}

/// The first bytes of formats, sorted by format.
const SIGNATURES: &[(&[u8], ScannedFormat)] = &[
    (b"7z\xbc\xaf\x27\x1c", ScannedFormat::Archive),
    (b"Rar!\x1a\x07", ScannedFormat::Archive),
    (b"BZh", ScannedFormat::Archive),
    (b"\xfd7zXZ\0", ScannedFormat::Archive),
    (b"\x28\xb5\x2f\xfd", ScannedFormat::Archive),
    (b"\x04\x22\x4d\x18", ScannedFormat::Archive),
    (b"\x02\x21\x4c\x18", ScannedFormat::Archive),
    (b"LZIP", ScannedFormat::Archive),
    // The oldest format of joblib.
    (b"ZF0x", ScannedFormat::Archive),
    (b"\x1f\x9d", ScannedFormat::Archive),
    (b"MSCF\0\0\0\0", ScannedFormat::Archive),
    (b"\x89HDF\r\n\x1a\n", ScannedFormat::Hdf5),
    (b"GGUF", ScannedFormat::Gguf),
    (b"\x89PNG\r\n\x1a\n", ScannedFormat::Image),
    (b"\xff\xd8\xff", ScannedFormat::Image),
    (b"GIF87a", ScannedFormat::Image),
    (b"GIF89a", ScannedFormat::Image),
    (b"II*\0", ScannedFormat::Image),
    (b"MM\0*", ScannedFormat::Image),
    (b"\0\0\x01\0", ScannedFormat::Image),
    (b"8BPS", ScannedFormat::Image),
    (b"OggS", ScannedFormat::Media),
    (b"fLaC", ScannedFormat::Media),
    (b"ID3", ScannedFormat::Media),
    (b"\x1a\x45\xdf\xa3", ScannedFormat::Media),
    (b"%PDF-", ScannedFormat::Text),
    (b"version https://git-lfs", ScannedFormat::LfsPointer),
];

/// Bytes of a text that are looked at.
const TEXT: usize = 4096;

/// Whether bytes are a shared library or a program: ELF, PE or Mach-O.
pub(super) fn is_native_code(bytes: &[u8]) -> bool {
    let is_pe = || {
        let offset = bytes.get(60..)?.first_chunk().map(|offset| u32::from_le_bytes(*offset))?;
        Some(bytes.starts_with(b"MZ") && bytes.get(offset as usize..)?.starts_with(b"PE\0\0"))
    };
    let is_mach =
        [b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe"].iter().any(|&magic| bytes.starts_with(magic));
    matches!(bytes, [0x7f, b'E', b'L', b'F', 1 | 2, 1 | 2, ..]) || is_mach || is_pe() == Some(true)
}

/// Recognizes archives. Takes little time for other bytes.
pub(super) fn recognize_archive(bytes: &[u8]) -> Option<Archive> {
    if bytes.starts_with(LocalHeader::SIGNATURE) || bytes.starts_with(EndOfDirectory::SIGNATURE) {
        Some(Archive::Zip)
    } else if bytes.starts_with(NumpyFile::SIGNATURE) {
        Some(Archive::Numpy)
    } else {
        // torch.load looks for a tar before all but a zip.
        containers::is_tar(bytes).then_some(Archive::Tar)
    }
}

/// Recognizes the format of bytes.
pub(super) fn recognize(bytes: &[u8]) -> Content {
    if let Some(archive) = recognize_archive(bytes) {
        return Content::Archive(archive);
    }
    if containers::is_safetensors(bytes, bytes.len() as u64) {
        return Content::Safetensors;
    }
    if bytes.starts_with(b"\x1f\x8b\x08") {
        return Content::Compressed(ScannedFormat::Gzip);
    }
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return Content::Other(*format);
    }
    if is_zlib(bytes) {
        return Content::Compressed(ScannedFormat::Zlib);
    }
    other(bytes).map_or(Content::Unknown, Content::Other)
}

/// Recognizes what has no signature at its start.
fn other(bytes: &[u8]) -> Option<ScannedFormat> {
    let head = bytes.get(..TEXT).unwrap_or(bytes);
    let at = |offset: usize, text: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(text));
    if bytes.is_empty() {
        return Some(ScannedFormat::Empty);
    }
    if bytes.starts_with(b"RIFF") {
        return Some(if at(8, b"WEBP") { ScannedFormat::Image } else { ScannedFormat::Media });
    }
    if at(4, b"ftyp") {
        let is_image = at(8, b"avif") || at(8, b"heic") || at(8, b"mif1");
        return Some(if is_image { ScannedFormat::Image } else { ScannedFormat::Media });
    }
    // The older format of xz: properties, the size of the dictionary, and a length below 2^40 or none.
    let is_lzma = bytes.starts_with(b"\x5d\0") && (at(5, &[0xff; 8]) || at(10, &[0; 3]));
    // zstd and lz4 skip frames of this kind.
    let is_skippable = bytes.first().is_some_and(|first| first & 0xf0 == 0x50) && at(1, b"\x2a\x4d\x18");
    if is_lzma || is_skippable {
        return Some(ScannedFormat::Archive);
    }
    if is_onnx(bytes) {
        return Some(ScannedFormat::Onnx);
    }
    // The field `meta_graphs` follows the version of the schema.
    if bytes.starts_with(b"\x08\x01\x12") {
        return Some(ScannedFormat::TensorFlow);
    }
    is_text(head, bytes.len() > head.len()).then_some(ScannedFormat::Text)
}

/// Whether bytes begin as an ONNX model: its version, then the name of the program that wrote it.
fn is_onnx(bytes: &[u8]) -> bool {
    let [0x08, 3..=30, 0x12, len, rest @ ..] = bytes else { return false };
    let name = rest.get(..usize::from(*len));
    *len < 0x80 && name.is_some_and(|name| name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '))
}

/// Whether bytes begin with the two bytes of a zlib header: method, window and a checksum.
fn is_zlib(bytes: &[u8]) -> bool {
    let [first @ (0x48 | 0x58 | 0x68 | 0x78), second, ..] = bytes else { return false };
    u16::from_be_bytes([*first, *second]) % 31 == 0 && second & 0x20 == 0
}

/// Whether bytes are UTF-8 without control characters. The last character may be cut off.
fn is_text(bytes: &[u8], is_cut: bool) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if is_cut && error.error_len().is_none() => {
            let valid = bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok());
            valid.unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && !text.chars().any(|found| found.is_control() && !"\t\n\r\u{c}\u{1b}".contains(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bytes: &[u8]) -> Option<ScannedFormat> {
        match recognize(bytes) {
            Content::Compressed(format) | Content::Other(format) => Some(format),
            _ => None,
        }
    }

    #[test]
    fn names_formats_by_content() {
        for (bytes, expected) in [
            (&b""[..], Some(ScannedFormat::Empty)),
            (b"{\"a\": 1}", Some(ScannedFormat::Text)),
            ("\u{e9}t\u{e9}\n".as_bytes(), Some(ScannedFormat::Text)),
            (b"\x89PNG\r\n\x1a\n\0", Some(ScannedFormat::Image)),
            (b"RIFF\0\0\0\0WEBP", Some(ScannedFormat::Image)),
            (b"\0\0\0\x20ftypisom", Some(ScannedFormat::Media)),
            (b"\x1f\x8b\x08\0", Some(ScannedFormat::Gzip)),
            (b"\x5d\0\0\x10\0\x07\0\0\0\0\0\0\0\0", Some(ScannedFormat::Archive)),
            (b"\x53\x2a\x4d\x18\x01\0\0\0a", Some(ScannedFormat::Archive)),
            (b"ZF0x31", Some(ScannedFormat::Archive)),
            (b"\x78\x9c\0", Some(ScannedFormat::Zlib)),
            (b"BZh91AY", Some(ScannedFormat::Archive)),
            (b"\x08\x07\x12\x07pytorch", Some(ScannedFormat::Onnx)),
            (b"GGUF\x03\0\0\0", Some(ScannedFormat::Gguf)),
            (b"\x13\x37\xff", None),
            (b"\x80\x02N.", None),
        ] {
            assert_eq!(format(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_text_may_be_cut_within_a_character() {
        let text = [&b"a".repeat(TEXT - 1)[..], "\u{e9}".as_bytes()].concat();
        assert_eq!(format(&text), Some(ScannedFormat::Text));
        assert_eq!(format(&text[..TEXT]), None);
    }
}
