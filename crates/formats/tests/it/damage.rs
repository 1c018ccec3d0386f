//! Truncated fixtures and fixtures with flipped bits: each is rejected, or read as if nothing had happened.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::Path;

use crate::support::{FIXTURES, Folder, Row, expected, overwrite, read, rows};
use trinart_ckpt_formats::containers::Container;

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
                end += trinart_ckpt_formats::pickle::parse(&bytes[end..]).unwrap().bytes().len();
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

/// Opens a file and reads every tensor.
fn read_all(path: &Path) -> trinart_ckpt_formats::Result<Vec<Row>> {
    rows(&crate::support::open(path)?)
}

#[test]
fn rejects_a_file_truncated_anywhere() {
    let folder = Folder::new();
    for name in FIXTURES {
        let path = folder.copy_fixture(name, name);
        let len = path.metadata().unwrap().len();
        assert_eq!(read_all(&path).unwrap(), expected(name));
        let strides = (1..60).map(|step| len * step / 60);
        let cuts: BTreeSet<u64> = (0..600).chain(strides).chain(len - 200..len).collect();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // From the longest cut to the shortest, so one copy of the file is enough.
        for &cut in cuts.iter().rev() {
            file.set_len(cut).unwrap();
            let error =
                read_all(&path).expect_err(&format!("{name} cut to {cut} of {len} bytes was read as a complete file"));
            assert_eq!(error.file(), Some(path.as_path()), "{error}");
        }
    }
}

/// Flips bits in each of these bytes in turn and passes the result of reading the file to `check`.
fn flip(path: &Path, offsets: impl Iterator<Item = u64>, check: impl Fn(u64, trinart_ckpt_formats::Result<Vec<Row>>)) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let bytes = fs::read(path).unwrap();
    for (offset, mask) in offsets.zip([0x01, 0x20, 0x80, 0xff].into_iter().cycle()) {
        let byte = bytes[offset as usize];
        overwrite(&file, offset, &[byte ^ mask]);
        check(offset, read_all(path));
        overwrite(&file, offset, &[byte]);
    }
}

const SMALL_ZIPS: [&str; 2] = ["dtypes.ckpt", "views.ckpt"];

#[test]
fn detects_a_flipped_byte_in_a_small_zip() {
    let folder = Folder::new();
    for name in SMALL_ZIPS {
        let path = folder.copy_fixture(name, name);
        let expected = expected(name);
        flip(&path, 0..path.metadata().unwrap().len(), |offset, found| match found {
            Ok(found) => assert!(found == expected, "{name}: byte {offset} changes what is read"),
            Err(error) => assert_eq!(error.file(), Some(path.as_path()), "{error}"),
        });
        assert_eq!(read_all(&path).unwrap(), expected);
    }
}

#[test]
fn never_panics_on_a_flipped_byte_in_a_header() {
    let folder = Folder::new();
    for name in FIXTURES.iter().filter(|name| !SMALL_ZIPS.contains(name)) {
        let path = folder.copy_fixture(name, name);
        let len = path.metadata().unwrap().len();
        let (step, middle) = if len < 10_000 { (1, 1) } else { (41, len as usize / 20) };
        let edges = (0..700).chain(len - 700..len).step_by(step);
        flip(&path, edges.chain((700..len - 700).step_by(middle)), |_, found| {
            if let Err(error) = found {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        });
    }
}
