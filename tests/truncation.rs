//! Small fixtures cut short at every byte of what describes them, large ones at strides: the header of a safetensors file, the directory and the
//! pickle of a zip, the pickles of a legacy file. `bad_input.rs` cuts the rest at strides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::single_range_in_vec_init
)]

#[macro_use]
mod support;

use std::fs::{self, OpenOptions};
use std::ops::Range;

use support::{FIXTURES, Folder, expected, read};
use trinart_ckpt::format::{self, Container};

/// The bytes of a file that describe its tensors: all but the elements.
fn described(bytes: &[u8], container: Container) -> Vec<Range<usize>> {
    let find = |sign: &[u8]| bytes.windows(sign.len()).position(|window| window == sign).unwrap();
    match container {
        Container::Safetensors => vec![0..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize],
        // The pickle is the first record; the directory reaches to the end.
        Container::TorchZip => {
            let second = bytes[4..].windows(4).position(|window| window == b"PK\x03\x04").unwrap() + 4;
            vec![0..second, find(b"PK\x01\x02")..bytes.len()]
        }
        // The storages follow the list of their keys, which ends the fifth pickle.
        Container::TorchLegacy => {
            let mut end = 0;
            for _ in 0..5 {
                end += trinart_ckpt::pickle::parse(&bytes[end..]).unwrap().bytes().len();
            }
            vec![0..end + 8]
        }
        other => panic!("no fixture is a {}", other.name()),
    }
}

#[test]
fn a_file_cut_within_what_describes_it_is_refused_wherever_it_is_cut() {
    let folder = Folder::new();
    for name in FIXTURES {
        let path = folder.take(name, name);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(read(&path), expected(name));
        let container = format::open(&path).unwrap().container;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let ranges = described(&bytes, container);
        assert!(ranges.iter().map(Range::len).sum::<usize>() > 500, "{name}: {ranges:?}");
        // Every byte of the small ones; the large ones have the same parts, only more of each.
        let step = if bytes.len() < 20_000 { 1 } else { 397 };
        // From the longest to the shortest, so that one copy serves for all.
        for cut in ranges.into_iter().rev().flat_map(Iterator::rev).step_by(step) {
            file.set_len(cut as u64).unwrap();
            let Err(error) = format::open(&path) else { panic!("{name} cut to {cut} bytes was opened") };
            assert_eq!(error.file(), Some(path.as_path()), "{error}");
        }
    }
}
