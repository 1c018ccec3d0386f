//! The user comment in EXIF data: where WebUI writes the parameters of JPEG and WebP files.

/// The tag of the EXIF directory in the first directory.
const EXIF: u16 = 0x8769;

/// The tag of the user comment in the EXIF directory.
const USER_COMMENT: u16 = 0x9286;

/// Bytes of an entry of a directory.
const ENTRY: usize = 12;

/// Returns the user comment of EXIF data, which may begin with "Exif" and two zeros. Returns `None` if the data
/// have no readable user comment.
pub(super) fn user_comment(exif: &[u8]) -> Option<String> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let is_little = match tiff.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let tiff = Tiff { bytes: tiff, is_little };
    let (_, first) = tiff.entry(tiff.number(4)?, EXIF)?;
    let (count, comment) = tiff.entry(first, USER_COMMENT)?;
    let begin = usize::try_from(comment).ok()?;
    let comment = tiff.bytes.get(begin..begin.checked_add(usize::try_from(count).ok()?)?)?;
    let (charset, text) = comment.split_at_checked(8)?;
    let text = match charset {
        b"UNICODE\0" => utf16(text, is_little),
        _ => String::from_utf8_lossy(text).into_owned(),
    };
    Some(text.trim_matches('\0').to_owned()).filter(|text| !text.is_empty())
}

struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl Tiff<'_> {
    /// Returns the four-byte number at an offset.
    fn number(&self, offset: usize) -> Option<u32> {
        let bytes = *self.bytes.get(offset..)?.first_chunk::<4>()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn short(&self, offset: usize) -> Option<u16> {
        let bytes = *self.bytes.get(offset..)?.first_chunk::<2>()?;
        Some(if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    /// Returns the count and the value of an entry of the directory at an offset.
    fn entry(&self, directory: u32, tag: u16) -> Option<(u32, u32)> {
        let directory = usize::try_from(directory).ok()?;
        let count = usize::from(self.short(directory)?);
        let first = directory.checked_add(2)?;
        let entry = (0..count).map(|index| first + index * ENTRY).find(|entry| self.short(*entry) == Some(tag))?;
        Some((self.number(entry + 4)?, self.number(entry + 8)?))
    }
}

/// Decodes UTF-16. WebUI writes it big-endian in any file; other programs write it in the byte order of the EXIF data, so
/// the order with more characters of the first page counts.
fn utf16(bytes: &[u8], is_little: bool) -> String {
    let units = |from: fn([u8; 2]) -> u16| bytes.as_chunks().0.iter().map(move |pair| from(*pair));
    let small = |from: fn([u8; 2]) -> u16| units(from).filter(|unit| (1..256).contains(unit)).count();
    let (little, big) = (small(u16::from_le_bytes), small(u16::from_be_bytes));
    let is_little = if little == big { is_little } else { little > big };
    let units: Vec<u16> =
        if is_little { units(u16::from_le_bytes).collect() } else { units(u16::from_be_bytes).collect() };
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data in big-endian order as piexif writes it, with a user comment of these bytes.
    fn exif(comment: &[u8]) -> Vec<u8> {
        let mut bytes = b"Exif\0\0MM\0\x2a\0\0\0\x08".to_vec();
        let mut directory = |tag: u16, kind: u16, count: u32, value: u32| {
            bytes.extend([0, 1]);
            bytes.extend(tag.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(count.to_be_bytes());
            bytes.extend(value.to_be_bytes());
            bytes.extend([0; 4]);
        };
        directory(EXIF, 4, 1, 26);
        directory(USER_COMMENT, 7, comment.len() as u32, 44);
        bytes.extend(comment);
        bytes
    }

    fn unicode(text: &str, from: fn(u16) -> [u8; 2]) -> Vec<u8> {
        b"UNICODE\0".iter().copied().chain(text.encode_utf16().flat_map(from)).collect()
    }

    #[test]
    fn reads_comments_in_each_encoding() {
        let text = "a cat, 猫\nSteps: 20";
        assert_eq!(user_comment(&exif(&unicode(text, u16::to_be_bytes))).as_deref(), Some(text));
        assert_eq!(user_comment(&exif(&unicode(text, u16::to_le_bytes))).as_deref(), Some(text));
        assert_eq!(user_comment(&exif(b"ASCII\0\0\0Steps: 20\0\0")).as_deref(), Some("Steps: 20"));
        assert_eq!(user_comment(&exif(b"\0\0\0\0\0\0\0\0Steps: 20")).as_deref(), Some("Steps: 20"));
    }

    #[test]
    fn ignores_damaged_data() {
        let whole = exif(&unicode("Steps: 20", u16::to_be_bytes));
        for length in 0..whole.len() {
            assert_eq!(user_comment(&whole[..length]), None, "{length}");
        }
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0xff;
            // It must not panic; the text may survive.
            let _ = user_comment(&damaged);
        }
        assert_eq!(user_comment(&exif(b"ASCII\0\0\0")), None);
    }
}
