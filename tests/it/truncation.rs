//! Truncates fixtures within the bytes that describe them (the header of a safetensors file, the directory and the
//! pickle of a zip, the pickles of a legacy file): small ones at every byte, large ones at strides. `bad_input.rs`
//! truncates them elsewhere.

use std::fs::{self, OpenOptions};
use std::ops::Range;

use crate::support::{FIXTURES, Folder, expected, read};
use formats::containers::Container;

/// The ranges of a file that describe its tensors: everything except the elements.
#[expect(clippy::single_range_in_vec_init, reason = "some containers have one range, some two")]
fn described(bytes: &[u8], container: Container) -> Vec<Range<usize>> {
    let find = |sign: &[u8]| bytes.windows(sign.len()).position(|window| window == sign).unwrap();
    match container {
        Container::Safetensors => vec![0..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize],
        // The pickle is the first record; the directory extends to the end.
        Container::TorchZip => {
            let second = bytes[4..].windows(4).position(|window| window == b"PK\x03\x04").unwrap() + 4;
            vec![0..second, find(b"PK\x01\x02")..bytes.len()]
        }
        // The storages follow the fifth pickle, which lists their keys.
        Container::TorchLegacy => {
            let mut end = 0;
            for _ in 0..5 {
                end += formats::pickle::parse(&bytes[end..]).unwrap().bytes().len();
            }
            vec![0..end + 8]
        }
        other => panic!("no fixture is a {}", other.name()),
    }
}

#[test]
fn rejects_a_file_truncated_within_its_headers() {
    let folder = Folder::new();
    for name in FIXTURES {
        let path = folder.copy_fixture(name, name);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(read(&path), expected(name));
        let container = crate::support::open(&path).unwrap().container();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let ranges = described(&bytes, container);
        assert!(ranges.iter().map(Range::len).sum::<usize>() > 500, "{name}: {ranges:?}");
        // Large files have the same parts as small ones, only more of each.
        let step = if bytes.len() < 20_000 { 1 } else { 397 };
        // From the longest cut to the shortest, so one copy of the file is enough.
        for cut in ranges.into_iter().rev().flat_map(Iterator::rev).step_by(step) {
            file.set_len(cut as u64).unwrap();
            let Err(error) = crate::support::open(&path) else { panic!("{name} cut to {cut} bytes was opened") };
            assert_eq!(error.file(), Some(path.as_path()), "{error}");
        }
    }
}
