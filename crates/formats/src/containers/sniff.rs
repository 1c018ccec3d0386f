//! Detects the container of a file by its first bytes, regardless of its name.

use std::sync::Arc;

use crate::containers::Container;
use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;
use crate::pickle::op;

/// Bytes that are examined: the length of a tar header.
const HEAD: usize = 512;

/// The integer that every legacy file begins with, 0x1950a86a20f9469cfc6c, as a LONG1 of ten bytes.
const LEGACY_MAGIC: [u8; 12] = [op::LONG1, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Returns the container of a file.
///
/// Fails if it is not a supported one. The error names the format if it is a known one.
pub(crate) fn sniff(source: &Arc<Source>) -> Result<Container> {
    let head = source.read(0, source.len().min(HEAD as u64))?;
    classify(&head, source.len()).map_err(|error| error.in_file(source.path()))
}

fn classify(head: &[u8], len: u64) -> Result<Container> {
    // From the most to the least reliable signature: the length in a safetensors file can look like an opcode.
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Container::TorchZip);
    }
    if is_safetensors(head, len) {
        return Ok(Container::Safetensors);
    }
    if let Some(what) = foreign(head) {
        return Err(Error::unsupported(format!("{what}; expected a safetensors or PyTorch file")));
    }
    if is_legacy(head) {
        return Ok(Container::TorchLegacy);
    }
    if looks_like_pickle(head) {
        return Err(Error::unsupported(
            "a bare pickle, not a checkpoint: pickle.dump hides the tensors of a state dict in nested pickles, \
             which torch.load rejects too; save it with torch.save",
        ));
    }
    let start: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Err(Error::malformed(format!(
        "not a checkpoint: it begins with {}; expected a safetensors or PyTorch file",
        start.join(" ")
    )))
}

/// Returns whether a file of this length begins as a safetensors file.
pub(crate) fn is_safetensors(head: &[u8], len: u64) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    // A length past the end means a safetensors file that was cut short; its reader reports that.
    let length = u64::from_le_bytes(*length);
    let plausible = length <= limits::SAFETENSORS_HEADER || length <= len;
    rest.first() == Some(&b'{') && plausible
}

fn is_legacy(head: &[u8]) -> bool {
    let body = match head {
        [op::PROTO, 2..=3, body @ ..] => body,
        // Protocols 4 and 5 have a frame around the number.
        [op::PROTO, 4..=5, op::FRAME, _, _, _, _, _, _, _, _, body @ ..] => body,
        _ => return false,
    };
    body.starts_with(&LEGACY_MAGIC)
}

fn looks_like_pickle(head: &[u8]) -> bool {
    match head {
        [op::PROTO, version, ..] => *version <= 5,
        [op::EMPTY_DICT | op::EMPTY_LIST | op::MARK | op::GLOBAL | op::EMPTY_TUPLE, next, ..] => {
            op::name(*next).is_some()
        }
        _ => false,
    }
}

/// How the bodies of failed downloads from model sites begin.
const ERROR_BODIES: &[&[u8]] = &[
    b"access denied",
    b"access to model",
    b"entry not found",
    b"error",
    b"forbidden",
    b"internal server error",
    b"invalid username or password",
    b"not found",
    b"repository not found",
    b"unauthorized",
];

/// Returns a description of a known format that is often mistaken for a checkpoint.
fn foreign(head: &[u8]) -> Option<&'static str> {
    const SIGNS: &[(&[u8], &str)] = &[
        (b"PK\x05\x06", "an empty zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"Rar!", "a RAR archive"),
        (b"\x93NUMPY", "a NumPy array (.npy)"),
        (b"\x89HDF\r\n", "an HDF5 file (Keras weights?)"),
        (b"GGUF", "a GGUF file"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    ];
    if head.is_empty() {
        return Some("an empty file");
    }
    if head.iter().all(|&byte| byte == 0) {
        return Some("a file of zeros (a failed download?)");
    }
    if let Some((_, what)) = SIGNS.iter().find(|(sign, _)| head.starts_with(sign)) {
        return Some(what);
    }
    let text = head.trim_ascii_start();
    let begins = |starts: &[&[u8]]| {
        starts.iter().any(|start| text.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start)))
    };
    if begins(&[b"<!doctype", b"<html", b"<?xml"]) {
        return Some("a web page (HTML or XML; a failed download?)");
    }
    if begins(&[b"{\"", b"{}", b"[{", b"[\""])
        || text.strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\""))
    {
        return Some("a JSON document (the error message of a failed download?)");
    }
    if begins(ERROR_BODIES) {
        return Some("the error message of a failed download");
    }
    if is_tar(head) {
        return Some("a tar file, as PyTorch before 0.2 wrote; load it with an old PyTorch and save it again");
    }
    None
}

/// Returns whether bytes begin with a tar header.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    if bytes.get(257..262) == Some(b"ustar") {
        return true;
    }
    // The header of 1979: the checksum is the sum of all bytes, with spaces in place of the checksum itself.
    let Some(head) = bytes.first_chunk::<HEAD>() else { return false };
    let (_, rest) = head.split_at(148);
    let Some(field) = rest.first_chunk::<8>() else { return false };
    let digits = field.iter().copied().filter(u8::is_ascii_digit).map(char::from).collect::<String>();
    let Ok(claimed) = u32::from_str_radix(&digits, 8) else { return false };
    let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
    let in_field: u32 = field.iter().map(|&byte| u32::from(byte)).sum();
    claimed == sum - in_field + 8 * u32::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_containers_by_their_first_bytes() {
        let mut legacy = vec![op::PROTO, 2];
        legacy.extend(LEGACY_MAGIC);
        assert_eq!(classify(&legacy, 1000).unwrap(), Container::TorchLegacy);
        let mut framed = vec![op::PROTO, 4, op::FRAME, 13, 0, 0, 0, 0, 0, 0, 0];
        framed.extend(LEGACY_MAGIC);
        assert_eq!(classify(&framed, 1000).unwrap(), Container::TorchLegacy);
        assert_eq!(classify(b"PK\x03\x04....", 1000).unwrap(), Container::TorchZip);
        assert_eq!(classify(b"\x02\0\0\0\0\0\0\0{}", 10).unwrap(), Container::Safetensors);
    }

    #[test]
    fn names_unsupported_formats() {
        for (head, found) in [
            (&b""[..], "empty file"),
            (&[0; 100], "zeros"),
            (b"7z\xbc\xaf\x27\x1c..", "7z"),
            (b"\n<!DOCTYPE html>", "web page"),
            (b"{\"error\":\"Unauthorized\"}", "JSON document"),
            (b"\n{\n  \"message\": \"not found\"}", "JSON document"),
            (b"Invalid username or password.", "failed download"),
            (b"Entry not found", "failed download"),
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
            (b"\x80\x02}q\x00.", "bare pickle"),
            (b"hello world", "68 65 6c 6c"),
        ] {
            let error = classify(head, 1000).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
