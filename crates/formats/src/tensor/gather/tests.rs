use super::*;
use crate::tensor::Shape;
use std::sync::atomic::{AtomicU64, Ordering};

fn view(dims: &[u64], strides: &[u64], start: u64, available: u64) -> View {
    View::new(Shape::new(dims).unwrap(), strides.to_vec(), start, available).unwrap()
}

/// Reads one element at a time, by the definition of a stride.
fn by_definition(storage: &[u8], size: u64, view: &View) -> Vec<u8> {
    let element = |mut index: u64| {
        let mut at = view.start();
        for (dim, stride) in view.shape().dims().iter().zip(view.strides()).rev() {
            at += index % dim * stride;
            index /= dim;
        }
        storage[(at * size) as usize..][..size as usize].to_vec()
    };
    (0..view.shape().elements()).flat_map(element).collect()
}

/// Gathers a range of elements. Returns them with the number of reads and the number of bytes read.
fn gathered(storage: &[u8], size: usize, view: &View, first: u64, count: u64) -> (Vec<u8>, u64, u64) {
    let (reads, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let read_at = |offset: u64, out: &mut [u8]| {
        out.copy_from_slice(&storage[offset as usize..][..out.len()]);
        reads.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    let mut out = vec![0; count as usize * size];
    let mut write = |offset: u64, bytes: &[u8]| {
        out[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    gather(&read_at, storage.len() as u64, view, size, first, count, &mut write).unwrap();
    (out, reads.into_inner(), bytes.into_inner())
}

#[test]
fn matches_the_definition_for_any_split_of_the_read() {
    let storage: Vec<u8> = (0..=255).collect();
    let cases: &[(&[u64], &[u64], u64)] = &[
        (&[3, 4], &[1, 3], 0),
        (&[2, 3, 4], &[12, 4, 1], 5),
        (&[2, 3, 4], &[1, 8, 2], 7),
        (&[4, 2, 3], &[6, 1, 2], 0),
        (&[5, 3], &[0, 1], 9),
        (&[3, 5], &[1, 0], 9),
        (&[4, 3], &[1, 1], 2),
        (&[3, 2, 4], &[2, 0, 1], 2),
        (&[2, 1, 5], &[50, 99, 3], 1),
        (&[2, 3, 2, 5], &[1, 2, 30, 6], 0),
        (&[], &[], 17),
    ];
    for &(dims, strides, start) in cases {
        let view = view(dims, strides, start, 256);
        let expected = by_definition(&storage, 1, &view);
        let count = expected.len() as u64;
        for split in 0..count {
            let head = gathered(&storage, 1, &view, 0, split).0;
            let tail = gathered(&storage, 1, &view, split, count - split).0;
            assert_eq!([head, tail].concat(), expected, "{dims:?} {strides:?} {start} split at {split}");
        }
    }
}

/// A storage, and views of it of more than one tile: the dims, the strides and the size of an element.
fn large() -> (Vec<u8>, Vec<(&'static str, View, usize)>) {
    let storage: Vec<u8> = (0..12_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let of = |name, dims: &[u64], strides: &[u64], size: usize| {
        (name, view(dims, strides, 0, (storage.len() / size) as u64), size)
    };
    let views = vec![
        of("transposed, a power of two", &[1024, 2048], &[1, 1024], 4),
        of("transposed, an odd size", &[1501, 1999], &[1, 1501], 2),
        of("transposed bytes", &[3072, 3072], &[1, 3072], 1),
        of("transposed, two columns", &[2, 1 << 20], &[1, 2], 4),
        of("transposed, two rows", &[1 << 20, 2], &[1, 1 << 20], 4),
        of("transposed complex numbers", &[700, 1000], &[1, 700], 16),
        of("channels last", &[320, 640, 3, 3], &[5760, 1, 1920, 640], 4),
        of("a permutation", &[48, 32, 40, 24], &[1, 1152, 36864, 48], 4),
        of("every other column", &[1200, 1200], &[2400, 2], 4),
        of("every other column, transposed", &[1200, 1200], &[2, 2400], 4),
        of("overlapping windows", &[1000, 1500], &[3, 1], 2),
        of("repeated columns", &[1500, 1000], &[1, 0], 2),
    ];
    (storage, views)
}

#[test]
fn gathers_views_of_many_tiles() {
    let (storage, views) = large();
    for (name, view, size) in views {
        let count = view.shape().elements();
        let expected = by_definition(&storage, size as u64, &view);
        assert!(gathered(&storage, size, &view, 0, count).0 == expected, "{name}");
        let (first, some) = (count / 3 + 1, count / 2 + 1);
        let part = &expected[first as usize * size..][..some as usize * size];
        assert!(gathered(&storage, size, &view, first, some).0 == part, "{name}, a part");
    }
}

#[test]
fn reads_large_views_in_long_runs_and_each_byte_about_once() {
    let (storage, views) = large();
    for (name, view, size) in views {
        let (_, reads, bytes) = gathered(&storage, size, &view, 0, view.shape().elements());
        let span = view.end() * size as u64;
        assert!(bytes <= 2 * span, "{name}: {bytes} bytes of {span}");
        assert!(bytes / reads >= 1024, "{name}: {reads} reads of {bytes} bytes");
    }
}

#[test]
fn costs_what_is_read() {
    let cost = |dims: &[u64], strides: &[u64]| super::cost(&view(dims, strides, 0, 1 << 30), 1);
    assert_eq!(cost(&[1000, 1000], &[1, 1000]), 1_000_000);
    assert_eq!(cost(&[1000, 1000], &[0, 1]), 1_000_000);
    // A byte of each page costs a read for each.
    assert_eq!(cost(&[1000], &[1 << 20]), 1000 * (GAP + 1));
    assert_eq!(cost(&[1000], &[2]), 1999);
}

#[test]
fn rejects_a_view_past_its_storage() {
    let read_at = |_: u64, _: &mut [u8]| panic!("read");
    let view = view(&[2, 2], &[1, 2], 0, 4);
    let error = gather(&read_at, 7, &view, 2, 0, 4, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("past its storage"), "{error}");
}
