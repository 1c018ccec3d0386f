//! The header of a NumPy file, as far as it tells whether a pickle follows.

mod dtype;
mod literal;

use dtype::{Item, item};
use literal::{Literal, parse};

/// What a NumPy file contains behind its header.
pub(super) struct NumpyFile<'a> {
    /// The content, up to the end of the bytes.
    pub(super) content: &'a [u8],
    /// What the content is.
    pub(super) elements: Elements,
}

/// The elements of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// Numbers and texts, with their size in bytes.
    Plain(usize),
    /// Objects, which NumPy unpickles.
    Objects,
    /// NumPy does not write such a header, and may read anything into it.
    Unclear,
}

/// Longest header to look at. NumPy itself refuses headers of more than 10,000 bytes, unless it may unpickle.
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
        let text = std::str::from_utf8(header).ok().filter(|text| text.len() <= HEADER);
        let elements = match text.and_then(parse).and_then(|header| items(&header)) {
            Some(Item::Plain(len)) => Elements::Plain(len),
            Some(Item::Object) => Elements::Objects,
            None => Elements::Unclear,
        };
        Some(NumpyFile { content, elements })
    }
}

/// Returns what all elements are, from the three fields of a header. `None` if NumPy did not write it.
fn items(header: &Literal<'_>) -> Option<Item> {
    let Literal::Dict(fields) = header else { return None };
    let field = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    match (field("descr")?, field("fortran_order")?, field("shape")?) {
        (descr, Literal::Bool(_), Literal::Tuple(shape)) if fields.len() == 3 => item(descr)?.times(shape),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Elements::{Objects, Plain, Unclear};
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), b"content"].concat()
    }

    fn elements(header: &str) -> Elements {
        let bytes = file(header);
        let found = NumpyFile::parse(&bytes).unwrap();
        assert_eq!(found.content, b"content");
        found.elements
    }

    #[test]
    fn only_plain_types_hold_no_pickle() {
        for (descr, expected) in [
            ("'<f4'", Plain(24)),
            ("'|b1'", Plain(6)),
            ("'<U3'", Plain(72)),
            ("'<M8[ns]'", Plain(48)),
            ("'<m8[25us/7]'", Plain(48)),
            ("'|V16'", Plain(96)),
            ("[('a', '<f4'), ('b', '|S3', (2,))]", Plain(60)),
            ("[('a', [('b', '<f4')])]", Plain(24)),
            ("[('O', '<f4')]", Plain(24)),
            ("[('O', '<f4', (2,)), ('o', '<f4')]", Plain(72)),
            ("[(('title', 'a'), '<f4')]", Plain(24)),
            ("[(\"a'b\", '<f4')]", Plain(24)),
            ("[('fortran_order', '<f4')]", Plain(24)),
            ("'|O'", Objects),
            ("'O'", Objects),
            ("'object'", Unclear),
            ("[('a', '<f4'), ('b', '|O')]", Objects),
            ("[(('a', 'f4'), 'O'), (('f4', 'b'), 'f4')]", Objects),
            ("[('a', [('f4', 'O'), ('f4', 'f4')])]", Objects),
            ("'<f4,O'", Unclear),
            ("'M8[ns],O'", Unclear),
            ("'<m8[ns],(2,)O'", Unclear),
            ("[('a', 'M8[ns],O')]", Unclear),
            ("'M8[ns'", Unclear),
            ("'f4[ns]'", Unclear),
            ("'f'", Unclear),
            ("'\\x4f'", Unclear),
            ("'<f4' ',O'", Unclear),
            ("'<f4', 'descr': '|O'", Unclear),
            ("'<f4', 'title': 'a'", Unclear),
            ("#'descr': '<f4'\n '|O'", Unclear),
            ("[('a', '<f4' ',O,' 'f4')]", Unclear),
            ("[('a', '<f4', 'O')]", Unclear),
            ("[(\"a'b\", 'O')]", Objects),
            ("[('fortran_order', '<f4'), ('b', '|O')]", Objects),
            ("{'names': ['a'], 'formats': ['O']}", Unclear),
        ] {
            let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}\n");
            assert_eq!(elements(&header), expected, "{descr}");
        }
        assert_eq!(elements(""), Unclear);
        assert!(NumpyFile::parse(b"\x93NUMPY\x01\0\xff\xff").is_none());
    }

    #[test]
    fn knows_where_the_elements_end_or_that_it_does_not() {
        for (shape, expected) in [
            ("()", Plain(4)),
            ("(3,)", Plain(12)),
            ("(3L, 2L)", Plain(24)),
            ("(0, 7)", Plain(0)),
            ("(0x1,)", Unclear),
            ("(1_0,)", Unclear),
            ("((1),)", Unclear),
            ("(True,)", Unclear),
            ("(-1,)", Unclear),
            ("(1)", Unclear),
            ("[1]", Unclear),
            ("(99999999999999999999,)", Unclear),
            ("(4611686018427387904,)", Unclear),
        ] {
            let header = format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}");
            assert_eq!(elements(&header), expected, "{shape}");
        }
    }
}
