//! The header of a NumPy file, as far as it tells whether a pickle follows.

/// What a NumPy file contains behind its header.
pub(super) struct NumpyFile<'a> {
    /// Whether NumPy unpickles the content: the elements are, or may be, objects.
    pub(super) has_objects: bool,
    /// The content, up to the end of the bytes.
    pub(super) content: &'a [u8],
    /// Bytes of the elements, if the header gives a plain type and a shape.
    pub(super) len: Option<usize>,
}

/// Longest header to look at. NumPy itself refuses headers of more than 10,000 bytes.
const HEADER: usize = 1 << 20;

impl<'a> NumpyFile<'a> {
    /// The bytes that a `.npy` file begins with.
    pub(super) const SIGNATURE: &'static [u8] = b"\x93NUMPY";

    /// Reads the header of a `.npy` file. Returns `None` for other bytes.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(Self::SIGNATURE)?;
        let ([major, _minor], rest) = rest.split_first_chunk()?;
        let (header_len, rest) = match major {
            1 => rest.split_first_chunk().map(|(len, rest)| (u32::from(u16::from_le_bytes(*len)), rest))?,
            _ => rest.split_first_chunk().map(|(len, rest)| (u32::from_le_bytes(*len), rest))?,
        };
        let (header, content) = rest.split_at_checked(header_len as usize)?;
        // A header that cannot be understood may describe objects.
        let text = std::str::from_utf8(header).ok().filter(|text| text.len() <= HEADER && is_plain_literal(text));
        let has_objects = text.is_none_or(|text| !has_plain_items(text));
        let len = text.filter(|_| !has_objects).and_then(|text| elements(text)?.checked_mul(plain(item(text)?)?));
        Some(NumpyFile { has_objects, content, len })
    }
}

/// Whether a header means what its strings say. Python also accepts comments, escapes, repeated keys of which the last one
/// counts, and strings that follow one another and are one. NumPy writes none of them.
fn is_plain_literal(header: &str) -> bool {
    let mut parts = header.split('\'');
    let has_gaps = |between: &str| between.contains([',', ':', '[', '(', '{']);
    // Every second part is within quotes. The first and the last are not.
    let is_separated =
        parts.next().is_some() && parts.skip(1).step_by(2).all(|between| has_gaps(between) || between.contains('}'));
    is_separated
        && header.matches("descr").count() == 1
        && header.matches("fortran_order").count() == 1
        && !header.contains(['\\', '#', '"'])
}

/// Returns the value of the key `descr`, and what follows it.
fn description(header: &str) -> Option<&str> {
    let (_, value) = header.split_once("'descr'")?;
    Some(value.trim_start().strip_prefix(':')?.trim_start())
}

/// Returns the type of the elements, unless they are records.
fn item(header: &str) -> Option<&str> {
    let value = description(header)?;
    let quote = value.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    value.split(quote).nth(1)
}

/// Whether the type of the elements, or each field of it, is a plain one.
fn has_plain_items(header: &str) -> bool {
    if let Some(item) = item(header) {
        return plain(item).is_some();
    }
    // A list of fields. Each has a name and a type, perhaps a shape. A type can be a list of fields.
    let fields = description(header).filter(|value| value.starts_with('['));
    let Some((fields, _)) = fields.and_then(|value| value.split_once("fortran_order")) else { return false };
    let parts: Vec<&str> = fields.split('\'').collect();
    let (pairs, rest) = parts.as_chunks();
    // A title before the name would shift names and types: `(('title', 'name'), type)`.
    let begins =
        |before: &str| before.trim_end().strip_suffix('(').is_some_and(|rest| rest.trim_end().ends_with([',', '[']));
    let is_plain =
        |[before, _name, between, kind]: &[&str; 4]| begins(before) && between.trim() == "," && plain(kind).is_some();
    // The quote of the next key follows the fields.
    pairs.iter().all(is_plain) && rest.len() == 2 || !fields.contains(['O', 'o'])
}

/// Returns the bytes of a plain type such as `<f4`. `None` for objects (`|O`) and types that are not known.
fn plain(kind: &str) -> Option<usize> {
    let kind = kind.trim_start_matches(['<', '>', '|', '=']);
    let mut characters = kind.chars();
    let letter = characters.next().filter(|letter| "biufcSaUVmMt?B".contains(*letter))?;
    let rest = characters.as_str();
    // Dates have a unit behind the size: `<M8[ns]`.
    let digits = rest.split('[').next()?;
    let size = if digits.is_empty() { 1 } else { digits.parse::<usize>().ok()? };
    size.checked_mul(if letter == 'U' { 4 } else { 1 })
}

/// Returns the number of elements that the shape gives.
fn elements(header: &str) -> Option<usize> {
    let (_, value) = header.split_once("'shape'").or_else(|| header.split_once("\"shape\""))?;
    let dims = value.trim_start().strip_prefix(':')?.trim_start().strip_prefix('(')?.split(')').next()?;
    let mut dims = dims.split(',').map(|dim| dim.trim().trim_end_matches('L')).filter(|dim| !dim.is_empty());
    dims.try_fold(1_usize, |all, dim| all.checked_mul(dim.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), b"content"].concat()
    }

    #[test]
    fn only_plain_types_hold_no_pickle() {
        for (descr, len) in [
            ("'<f4'", Some(24)),
            ("'|b1'", Some(6)),
            ("'<U3'", Some(72)),
            ("'<M8[ns]'", Some(48)),
            ("'|V16'", Some(96)),
            ("[('a', '<f4'), ('b', '|S3', (2,))]", Some(0)),
            ("[('a', [('b', '<f4')])]", Some(0)),
            ("'|O'", None),
            ("'O'", None),
            ("'object'", None),
            ("[('a', '<f4'), ('b', '|O')]", None),
            ("[('O', '<f4')]", Some(0)),
            ("[('O', '<f4', (2,)), ('o', '<f4')]", Some(0)),
            ("[(('title', 'a'), '<f4')]", Some(0)),
            ("[(('a', 'f4'), 'O'), (('f4', 'b'), 'f4')]", None),
            ("[(('a', 'f4'), [('O', 'f4')])]", None),
            ("[( ('a', 'f4') , 'O'), ( ('f4', 'b') , 'f4')]", None),
            ("[('a', [('f4', 'O'), ('f4', 'f4')])]", None),
            ("'<f4,O'", None),
            ("'\\x4f'", None),
            ("'<f4' ',O'", None),
            ("'<f4', 'descr': '|O'", None),
            ("#'descr': '<f4'\n '|O'", None),
            ("[('a', '<f4' ',O,' 'f4')]", None),
            ("[(\"a'b\", 'O')]", None),
            ("[('fortran_order', '<f4'), ('b', '|O')]", None),
            ("{'names': ['a'], 'formats': ['O']}", None),
        ] {
            let bytes = file(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}\n"));
            let found = NumpyFile::parse(&bytes).unwrap();
            assert_eq!((found.has_objects, found.len), (len.is_none(), len.filter(|&len| len > 0)), "{descr}");
            assert_eq!(found.content, b"content");
        }
        assert!(NumpyFile::parse(&file("")).unwrap().has_objects);
        assert!(NumpyFile::parse(b"\x93NUMPY\x01\0\xff\xff").is_none());
    }
}
