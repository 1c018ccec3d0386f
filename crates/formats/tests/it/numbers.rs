//! Files whose numbers lie near the ends of their range: each is read or rejected without a panic.
//!
//! Tests check for overflow, as release builds of this crate do.

use std::path::Path;

use crate::support::Folder;
use crate::support::hostile::{SYSTEM, floats, legacy, raw_zip, record, safetensors, tensor_and, torch, torch_with};
use trinart_ckpt_formats::containers::{self, Target, WriteOptions};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::Overwrite;
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::scan::scan_file;
use trinart_ckpt_formats::tensor::{Dtype, Overflow};

/// Numbers near the limits of integer types and of files.
const EDGES: &[u64] = &[
    0,
    1,
    3,
    4,
    5,
    u32::MAX as u64 - 1,
    u32::MAX as u64,
    1 << 32,
    (1 << 59) - 1,
    1 << 59,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Opens a file, and puts each tensor to all uses. Returns the number of tensors.
fn use_all(path: &Path) -> Result<usize> {
    let checkpoint = crate::support::open(path)?;
    let state_dict = checkpoint.state_dict();
    for (_, tensor) in state_dict.iter() {
        for &first in EDGES {
            for &count in EDGES {
                let _ = tensor.clone().rows(first, count).and_then(|rows| rows.to_bytes());
            }
            let _ = tensor.read(first, &mut [0; 4], None);
        }
        let _ = tensor.clone().transpose().and_then(|transposed| transposed.to_bytes());
        let _ = tensor.clone().cast(Dtype::F16, Overflow::Refuse).and_then(|cast| cast.to_bytes());
        let _ = tensor.to_bytes();
    }
    let options = WriteOptions::default().overwrite(Overwrite::Replace).jobs(1);
    for (target, name) in [(Target::Safetensors, "out.safetensors"), (Target::Torch, "out.ckpt")] {
        let _ = containers::check_target(state_dict, checkpoint.metadata(), target, checkpoint.structure());
        let out = path.with_file_name(name);
        // A tensor of some gigabytes is a valid expansion of a stride of 0, but slow to write.
        if state_dict.bytes() < 1 << 20 {
            let _ = containers::write(&out, target, state_dict, &Metadata::new(), &options);
        }
    }
    Ok(state_dict.len())
}

/// Uses and scans a file of these bytes. Returns whether it was opened.
fn survives(folder: &Folder, bytes: &[u8]) -> bool {
    let path = folder.write("file.ckpt", bytes);
    let _ = scan_file(&path);
    match use_all(&path) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.file(), Some(path.as_path()), "{error}");
            false
        }
    }
}

/// The pickle of `{"weight": …}`: a tensor of a float storage with any numbers, as decimal text.
fn tensor(numel: &str, start: &str, dims: &[&str], strides: &[&str]) -> Vec<u8> {
    let int = |number: &str| format!("L{number}L\n");
    let tuple = |numbers: &[&str]| format!("({}t", numbers.iter().map(|number| int(number)).collect::<String>());
    let storage = format!("(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n{}tQ", int(numel));
    let arguments =
        format!("({storage}{}{}{}I00\nccollections\nOrderedDict\n)RtR", int(start), tuple(dims), tuple(strides));
    format!("}}Vweight\nctorch._utils\n_rebuild_tensor_v2\n{arguments}s.").into_bytes()
}

#[test]
fn reads_empty_tensors_whatever_their_strides() {
    let folder = Folder::new();
    let largest = i64::MAX.to_string();
    for strides in [["4611686018427387904", "1"], [&largest, &largest], ["0", "0"]] {
        for dims in [["3000", "0"], ["0", "3000"], ["0", "0"], ["0", "288230376151711744"]] {
            for start in ["0", "4"] {
                let pickle = tensor("4", start, &dims, &strides);
                assert!(survives(&folder, &torch(&pickle)), "{dims:?} {strides:?}");
                assert!(survives(&folder, &legacy(SYSTEM, &pickle, crate::support::hostile::KEYS)));
            }
        }
    }
}

#[test]
fn an_empty_tensor_with_huge_strides_is_written_with_contiguous_ones() {
    let folder = Folder::new();
    let path = folder.write("file.ckpt", torch(&tensor("4", "0", &["3000", "0"], &["4611686018427387904", "1"])));
    let checkpoint = crate::support::open(&path).unwrap();
    let out = folder.join("out.ckpt");
    containers::write(&out, Target::Torch, checkpoint.state_dict(), &Metadata::new(), &WriteOptions::default())
        .unwrap();
    let written = crate::support::open(&out).unwrap();
    assert_eq!(written.state_dict().get("weight").unwrap().shape().dims(), [3000, 0]);
}

#[test]
fn survives_numbers_at_the_ends_of_their_range_in_pickles() {
    let folder = Folder::new();
    let numbers: Vec<String> =
        EDGES.iter().map(u64::to_string).chain(["-1", "18446744073709551616"].map(String::from)).collect();
    for number in &numbers {
        let number = number.as_str();
        for pickle in [
            tensor(number, "0", &["2", "2"], &["2", "1"]),
            tensor("4", number, &["2", "2"], &["2", "1"]),
            tensor("4", number, &["0", "2"], &["2", "1"]),
            tensor("4", "0", &[number, "2"], &["2", "1"]),
            tensor("4", "0", &[number, "0"], &["2", "1"]),
            tensor("4", "0", &["1", number], &["0", "0"]),
            tensor("4", "0", &["2", "2"], &[number, "1"]),
            tensor("4", "0", &["1", "2"], &[number, number]),
            tensor("4", "1", &[number, number], &[number, number]),
        ] {
            survives(&folder, &torch(&pickle));
            survives(&folder, &legacy(SYSTEM, &pickle, crate::support::hostile::KEYS));
        }
    }
}

#[test]
fn survives_storages_of_any_size_in_legacy_files() {
    let folder = Folder::new();
    for &numel in EDGES {
        for &count in EDGES {
            let pickle = tensor(&numel.to_string(), "0", &["2"], &["1"]);
            let mut bytes = legacy(SYSTEM, &pickle, crate::support::hostile::KEYS);
            let at = bytes.len() - floats().len() - 8;
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert_eq!(survives(&folder, &bytes), numel == 4 && count == 4, "{numel} {count}");
        }
        // A window of a storage, as early versions of PyTorch wrote.
        for &len in EDGES {
            let view = format!("(V1\nL{numel}L\nL{len}L\nttQ");
            let pickle = String::from_utf8(tensor("4", "0", &["1"], &["1"])).unwrap();
            let pickle = pickle.replacen("tQ", &view, 1).into_bytes();
            survives(&folder, &legacy(SYSTEM, &pickle, crate::support::hostile::KEYS));
            survives(&folder, &torch(&pickle));
        }
    }
}

#[test]
fn rejects_a_long_magic_number_at_once() {
    let folder = Folder::new();
    // The magic number, dropped in favor of one of eight million bytes, which take minutes to convert to decimal.
    let len = 8 << 20;
    let number = [&b"0\x8b"[..], &(len as u32).to_le_bytes(), &vec![0x7f; len]].concat();
    let good = legacy(SYSTEM, &tensor_and(b""), crate::support::hostile::KEYS);
    let at = good.iter().position(|&byte| byte == b'.').unwrap();
    let path = folder.write("file.pt", [&good[..at], &number, &good[at..]].concat());
    let error = crate::support::open(&path).unwrap_err().to_string();
    assert!(error.contains("magic number: 8388629 bytes, at most 64"), "{error}");
}

#[test]
fn rejects_numbers_at_the_ends_of_their_range_in_safetensors_headers() {
    let folder = Folder::new();
    for &begin in EDGES {
        for &end in EDGES {
            for shape in ["[4]", "[0]", "[18446744073709551615]", "[0,18446744073709551615]", "[576460752303423487]"] {
                let entry = format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#);
                let is_valid = begin == 0 && end == 4 && shape == "[4]";
                assert_eq!(survives(&folder, &safetensors(entry.as_bytes(), 4)), is_valid, "{entry}");
            }
        }
        let length = [&begin.to_le_bytes()[..], b"{}"].concat();
        assert!(!survives(&folder, &length) || begin == 2);
    }
}

#[test]
fn survives_fields_at_the_ends_of_their_range_in_zips() {
    let folder = Folder::new();
    let pickle = record("archive/data.pkl", &tensor_and(b""));
    let edges = [0, 1, 15, 16, 17, 1 << 31, u32::MAX - 16, u32::MAX - 1, u32::MAX];
    let data = || record("archive/data/0", &floats());
    let rest = |data| raw_zip(b"", &[pickle.clone(), data, record("archive/version", b"3\n")]);
    for first in edges {
        for second in edges {
            survives(&folder, &rest(data().with_sizes(first, second)));
            survives(&folder, &rest(data().deflated().with_sizes(first, second)));
            survives(&folder, &rest(data().with_sizes(first, first).with_offset(second)));
        }
        survives(&folder, &torch_with(pickle.clone().with_sizes(first, first), &[]));
    }
}

#[test]
fn survives_zip64_fields_at_the_ends_of_their_range() {
    let folder = Folder::new();
    let good = torch(&tensor_and(b""));
    let end = good.len() - 22;
    let u32_at = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap());
    let (directory_len, directory) = (u64::from(u32_at(end + 12)), u64::from(u32_at(end + 16)));
    // Entry count, length and offset of the directory, and offset of the zip64 end record.
    let zip64 = |count: u64, len: u64, offset: u64, end_offset: u64| {
        let mut bytes = good[..end].to_vec();
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        bytes.extend([count, count, len, offset].map(u64::to_le_bytes).concat());
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(end_offset.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
        bytes
    };
    assert!(survives(&folder, &zip64(3, directory_len, directory, end as u64)));
    for &edge in EDGES {
        survives(&folder, &zip64(edge, directory_len, directory, end as u64));
        survives(&folder, &zip64(3, edge, directory, end as u64));
        survives(&folder, &zip64(3, directory_len, edge, end as u64));
        survives(&folder, &zip64(3, directory_len, directory, edge));
        survives(&folder, &zip64(edge, edge, edge, edge));
    }
}
