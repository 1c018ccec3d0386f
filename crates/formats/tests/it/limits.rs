//! Every limit of `limits.rs`: the limit itself is accepted, one past it is an error that names the limit.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::hostile::{floats, raw_zip, record, safetensors, tensor_and, torch, torch_with};
use crate::support::{self, Folder, f32s};
use trinart_ckpt_formats::danger::Level;
use trinart_ckpt_formats::error::{Kind, Result};
use trinart_ckpt_formats::limits;
use trinart_ckpt_formats::pickle::parse;
use trinart_ckpt_formats::scan::scan_file;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, Extent, LazyTensor, Shape, Storage, View};

/// Asserts that the first is accepted and the second fails with `Kind::Limit` and this word.
#[track_caller]
fn assert_limit<T>(at: Result<T>, past: Result<T>, word: &str) {
    if let Err(error) = at {
        panic!("rejected at the limit: {error}");
    }
    let Err(error) = past else { panic!("accepted past the limit of {word}") };
    assert!(error.to_string().contains(word), "{error}");
    assert_eq!(error.kind(), Kind::Limit, "{error}");
}

fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [&[&b"\x80\x04"[..]], parts, &[b"."]].concat().concat()
}

/// Encodes a string as BINUNICODE.
fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// Writes bytes to a file and opens it.
fn open(folder: &Folder, bytes: impl AsRef<[u8]>) -> Result<trinart_ckpt_formats::StoredCheckpoint> {
    crate::support::open(folder.write("file", bytes))
}

/// A checkpoint with one tensor, and under the key `x` the value that these opcodes build.
fn beside(opcodes: &[u8]) -> Vec<u8> {
    torch(&tensor_and(&[&text("x"), opcodes, b"s"].concat()))
}

#[test]
fn limits_pickles() {
    let check = |pickle_of: &dyn Fn(usize) -> Vec<u8>, limit: usize, word: &str| {
        assert_limit(parse(&pickle_of(limit)), parse(&pickle_of(limit + 1)), word);
    };
    let bytes = |len: usize| {
        let content = vec![0; len - 12];
        pickle(&[b"\x8e", &(content.len() as u64).to_le_bytes(), &content])
    };
    check(&bytes, limits::PICKLE_BYTES as usize, "the pickle exceeds the limit of");
    check(&|count| pickle(&[b"N", &b"\x85".repeat(count - 1)]), limits::PICKLE_NODES, "values in a pickle");
    check(&|count| pickle(&[b"(N", &b"2".repeat(count - 1), b"t"]), limits::PICKLE_STACK, "stack");
    // PROTO and STOP count as opcodes.
    check(
        &|count| pickle(&[b"N", &b"20".repeat((count - 3) / 2), &b"q\0".repeat((count - 3) % 2)]),
        limits::PICKLE_OPCODES as usize,
        "opcodes",
    );
    let puts = |count: usize| {
        (0..count as u32).flat_map(|index| [&b"r"[..], &index.to_le_bytes()].concat()).collect::<Vec<_>>()
    };
    check(&|count| pickle(&[b"N", &puts(count)]), limits::PICKLE_MEMO, "memo");
    check(&|count| pickle(&[&b"(".repeat(count), &b"1".repeat(count), b"N"]), limits::PICKLE_MARKS, "marks");
    for head in ["I", "L"] {
        check(&|count| format!("{head}{}\n.", "9".repeat(count)).into_bytes(), limits::INTEGER_DIGITS, "digits");
    }
    check(&|count| pickle(&[b"c", &b"m".repeat(count), b"\nN\n"]), limits::GLOBAL_NAME_BYTES, "longer than");
    check(&|count| pickle(&[&text(&"m".repeat(count)), &text("N"), b"\x93"]), limits::GLOBAL_NAME_BYTES, "longer than");
    let names = |count: usize| (0..count).flat_map(|index| format!("cm\n{index}\n0").into_bytes()).collect::<Vec<_>>();
    check(&|count| pickle(&[&names(count), b"N"]), limits::GLOBAL_NAMES, "names in a pickle");
    let long =
        |count: usize| (0..count).flat_map(|index| format!("cm\n{index:01023}\n0").into_bytes()).collect::<Vec<_>>();
    check(&|count| pickle(&[&long(count), b"N"]), limits::GLOBAL_NAMES_BYTES / 1024, "names of more than");
}

#[test]
fn limits_names_and_shapes() {
    let insert = |key: usize| StateDict::new().insert("k".repeat(key), f32s(&[1.0]));
    assert_limit(insert(limits::KEY_BYTES), insert(limits::KEY_BYTES + 1), "a key of");
    let tensors = |count: usize| {
        let mut state_dict = StateDict::new();
        let one = f32s(&[1.0]);
        (0..count).try_for_each(|index| state_dict.insert(index.to_string(), one.clone()))
    };
    assert_limit(tensors(limits::TENSORS), tensors(limits::TENSORS + 1), "tensors");
    let rank = |count: usize| Shape::new(vec![1; count]);
    assert_limit(rank(limits::RANK), rank(limits::RANK + 1), "dimensions");
    let most = limits::FILE_BYTES / 16;
    assert!(Shape::new([most]).is_ok());
    assert!(Shape::new([most + 1]).unwrap_err().to_string().contains("more elements than"));
    assert!(Shape::new([u64::MAX, 0, u64::MAX]).is_err());
    let folder = Folder::new();
    let storage = |name: usize| {
        let name = "0".repeat(name);
        let pickled = pickle(&[
            b"}",
            &text("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            b"ctorch\nFloatStorage\n",
            &text(&name),
            &text("cpu"),
            b"K\x04tQK\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs",
        ]);
        let data = record(&format!("archive/data/{name}"), &floats());
        open(&folder, raw_zip(b"", &[record("archive/data.pkl", &pickled), data, record("archive/version", b"3\n")]))
    };
    assert_limit(storage(limits::STORAGE_KEY_BYTES), storage(limits::STORAGE_KEY_BYTES + 1), "with a name of");
}

#[test]
fn limits_views() {
    // A stride of 0 expands four bytes to the largest view, then to one element more.
    let folder = Folder::new();
    let path = folder.join("one.safetensors");
    support::save(&path, [("a".to_owned(), f32s(&[1.0]))]);
    let contents = crate::support::open(&path).unwrap();
    let storage = contents.state_dict().get("a").unwrap().storage().unwrap();
    let view = |elements: u64| {
        let view = View::new(Shape::new([elements]).unwrap(), vec![0], 0, 1).unwrap();
        LazyTensor::stored(storage.clone(), Dtype::F32, view)
    };
    assert_limit(view(limits::VIEW_BYTES / 4), view(limits::VIEW_BYTES / 4 + 1), "needs");
    // For a large storage the growth factor is the limit; the check reads nothing.
    let len = limits::VIEW_BYTES / 8;
    let large = Storage::new(storage.source().clone(), "large", Extent::Raw { offset: 0, len });
    let large = Arc::new(large);
    let view = |elements: u64| {
        let view = View::new(Shape::new([elements]).unwrap(), vec![0], 0, len).unwrap();
        LazyTensor::stored(Arc::clone(&large), Dtype::U8, view)
    };
    assert_limit(view(len * limits::VIEW_GROWTH), view(len * limits::VIEW_GROWTH + 1), "needs");
}

/// A torch file with deflated zeros of these lengths, one tensor each.
fn deflated(folder: &Folder, lens: &[u64]) -> trinart_ckpt_formats::Result<trinart_ckpt_formats::StoredCheckpoint> {
    let tensors = lens.iter().enumerate().flat_map(|(index, len)| {
        let (name, count) = (index.to_string(), (*len as u32).to_le_bytes());
        let strided = [&b"J"[..], &count, b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"].concat();
        let storage =
            [&text("storage")[..], b"ctorch\nByteStorage\n", &text(&name), &text("cpu"), b"J", &count].concat();
        [&text(&name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n((", &storage, b"tQK\0", &strided].concat()
    });
    let pickled = pickle(&[b"}(", &tensors.collect::<Vec<_>>(), b"u"]);
    let mut records = vec![record("archive/data.pkl", &pickled), record("archive/version", b"3\n")];
    for (index, len) in lens.iter().enumerate() {
        // Opening inflates nothing, so that the content need not be a deflate stream.
        let content = vec![0; *len as usize / 1000 + 1];
        let data = record(&format!("archive/data/{index}"), &content).with_method(8);
        records.push(data.with_sizes(content.len() as u32, *len as u32));
    }
    open(folder, raw_zip(b"", &records))
}

#[test]
fn limits_what_all_views_expand_to() {
    let folder = Folder::new();
    // Tensors of these lengths, each a single byte that is repeated.
    let views = |lens: &[u64]| {
        let tensors = lens.iter().enumerate().flat_map(|(index, len)| {
            let strided =
                [&b"J"[..], &(*len as u32).to_le_bytes(), b"\x85K\0\x85\x89ccollections\nOrderedDict\n)RtR"].concat();
            let storage = [&text("storage")[..], b"ctorch\nByteStorage\n", &text("0"), &text("cpu"), b"K\x01"].concat();
            let key = text(&index.to_string());
            [&key[..], b"ctorch._utils\n_rebuild_tensor_v2\n((", &storage, b"tQK\0", &strided].concat()
        });
        let pickled = pickle(&[b"}(", &tensors.collect::<Vec<_>>(), b"u"]);
        let data =
            [record("archive/data.pkl", &pickled), record("archive/data/0", b"7"), record("archive/version", b"3\n")];
        open(&folder, raw_zip(b"", &data))
    };
    let half = limits::VIEW_BYTES / 2;
    assert_limit(views(&[half, half]), views(&[half, half, 1]), "views that expand to");
}

#[test]
fn limits_what_deflated_storages_expand_to() {
    let folder = Folder::new();
    let half = limits::INFLATED_BYTES / 2;
    assert_limit(deflated(&folder, &[half, half]), deflated(&folder, &[half, half + 1]), "deflated records expand to");
}

/// The number of metadata values and of opaque values beside the tensors of a checkpoint.
fn taken(folder: &Folder, opcodes: &[u8]) -> (usize, usize) {
    let contents = open(folder, beside(opcodes)).unwrap();
    (contents.metadata().len(), contents.opaque().len())
}

#[test]
fn limits_plain_values() {
    let folder = Folder::new();
    // Values past these limits are opaque; the file still opens.
    let nested = |depth: usize| [b"]".repeat(depth), b"a".repeat(depth - 1)].concat();
    assert_eq!(taken(&folder, &nested(limits::METADATA_DEPTH)), (1, 0));
    assert_eq!(taken(&folder, &nested(limits::METADATA_DEPTH + 1)), (0, 1));
    let list = |count: usize| [&b"]("[..], &b"N".repeat(count), b"e"].concat();
    assert_eq!(taken(&folder, &list(limits::METADATA_VALUES - 1)), (1, 0));
    assert_eq!(taken(&folder, &list(limits::METADATA_VALUES)), (0, 1));
    let twice = |len: usize| [&b"]"[..], &text(&"a".repeat(len / 2)), b"q\xf0ah\xf0a"].concat();
    assert_eq!(taken(&folder, &twice(limits::METADATA_TEXT_BYTES)), (1, 0));
    assert_eq!(taken(&folder, &twice(limits::METADATA_TEXT_BYTES + 2)), (0, 1));
    // Opaque values are listed up to a limit, and counted beyond.
    let dict = |count: usize| {
        let items = (0..count as i32).flat_map(|index| [&b"J"[..], &index.to_le_bytes(), b"cm\nC\n"].concat());
        [&b"}("[..], b"NN", &items.collect::<Vec<_>>(), b"u"].concat()
    };
    assert_eq!(taken(&folder, &dict(limits::OPAQUE_LISTED)), (1, limits::OPAQUE_LISTED));
    let contents = open(&folder, beside(&dict(limits::OPAQUE_LISTED + 7))).unwrap();
    assert_eq!(contents.opaque().len(), limits::OPAQUE_LISTED + 1);
    assert_eq!(contents.opaque().last().unwrap().what, "7 more values");
}

#[test]
fn limits_descriptions_of_opaque_values() {
    let folder = Folder::new();
    // A list whose first item is a class. The search reaches it last, after all others; each counts twice.
    let words = |others: usize| {
        let list = [&b"]q\xf0(cm\nC\nNq\xf1"[..], &b"h\xf1".repeat(others - 1), b"e"].concat();
        open(&folder, beside(&list)).unwrap().opaque()[0].what.clone()
    };
    let most = limits::DESCRIBED_VALUES / 2 - 2;
    assert_eq!(words(most), "list, m.C");
    assert_eq!(words(most + 1), "list");
}

#[test]
fn limits_wrapped_tensors() {
    let folder = Folder::new();
    let wrapped = |times: usize| {
        let good = tensor_and(b"");
        let call = good.windows(14).position(|window| window == b"ctorch._utils\n").unwrap();
        let end = good.len() - 2;
        let around = b"ctorch._utils\n_rebuild_parameter\n(".repeat(times);
        open(&folder, torch(&[&good[..call], &around, &good[call..end], &b"\x88NtR".repeat(times), b"s."].concat()))
    };
    // The innermost call counts.
    assert_limit(wrapped(limits::REBUILD_DEPTH - 1), wrapped(limits::REBUILD_DEPTH), "wrapped");
}

#[test]
fn limits_zips() {
    let folder = Folder::new();
    let good = record("archive/data.pkl", &tensor_and(b""));
    let entries = |count: usize| {
        let more = (3..count).map(|index| record(&format!("archive/x{index}"), b""));
        let more: Vec<_> = more.collect();
        open(&folder, torch_with(good.clone(), &more))
    };
    assert_limit(entries(limits::ZIP_ENTRIES), entries(limits::ZIP_ENTRIES + 1), "records in the zip");
    let version = |len: usize| {
        let version = [&b"3"[..], &b"\n".repeat(len - 1)].concat();
        let records = [good.clone(), record("archive/data/0", &floats()), record("archive/version", &version)];
        open(&folder, raw_zip(b"", &records))
    };
    let most = limits::ZIP_TEXT_RECORD as usize;
    assert_limit(version(most), version(most + 1), "bytes, the limit is");
    // A deflated record may not declare more than deflate can produce, nor produce another size than it declares.
    let claim = |compressed: u32, size: u32| {
        let data = record("archive/data/9", &[0; 4]).deflated().with_sizes(compressed, size);
        open(&folder, torch_with(good.clone(), &[data]))
    };
    let ratio = limits::INFLATE_RATIO as u32;
    assert!(claim(6, 6 * ratio).is_ok());
    assert!(claim(6, 7 * ratio).unwrap_err().to_string().contains("more than deflate can"));
    let bomb = record("archive/data.pkl", &[0; 1 << 20]).deflated().with_size(100);
    assert!(open(&folder, torch_with(bomb, &[])).unwrap_err().to_string().contains("expected 100"));
    let large = record("archive/data.pkl", &vec![b'N'; limits::PICKLE_BYTES as usize + 1]).deflated();
    assert_eq!(open(&folder, torch_with(large, &[])).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn limits_safetensors_headers() {
    let folder = Folder::new();
    let header = |length: u64| open(&folder, [&length.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
    // At the limit the only error is the truncated file.
    assert!(header(limits::SAFETENSORS_HEADER).to_string().contains("cut short"));
    assert_eq!(header(limits::SAFETENSORS_HEADER).kind(), Kind::Malformed);
    let tensors = |count: usize| {
        let mut header = String::from("{");
        for index in 0..count {
            write!(header, r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#).unwrap();
        }
        header.pop();
        open(&folder, safetensors(format!("{header}}}").as_bytes(), 0))
    };
    let metadata = |fields: usize, bytes: usize| {
        let mut header = String::from(r#"{"__metadata__":{"#);
        for index in 1..fields {
            write!(header, r#""{index:05}":"","#).unwrap();
        }
        write!(header, r#""long":"{}"}}}}"#, "a".repeat(bytes)).unwrap();
        open(&folder, safetensors(header.as_bytes(), 0)).map_err(|error| error.to_string())
    };
    assert!(metadata(limits::METADATA_FIELDS, 1).is_ok());
    assert!(metadata(limits::METADATA_FIELDS + 1, 1).unwrap_err().contains("fields"));
    assert!(metadata(1, limits::METADATA_BYTES - 4).is_ok());
    assert!(metadata(1, limits::METADATA_BYTES - 3).unwrap_err().contains("bytes of metadata"));
    assert_eq!(tensors(limits::TENSORS).unwrap().state_dict().len(), limits::TENSORS);
    assert!(
        tensors(limits::TENSORS + 1)
            .unwrap_err()
            .to_string()
            .contains(&format!("more than {} tensors", limits::TENSORS))
    );
}

#[test]
fn limits_configurations() {
    let folder = Folder::new();
    let config = |len: u64| {
        let copy = folder.join(&len.to_string());
        let copy: PathBuf = support::copy_folder(&support::fixture("diffusers/vae-bin"), &copy);
        let text = std::fs::read_to_string(copy.join("config.json")).unwrap();
        let padded = format!("{text}{}", " ".repeat(len as usize - text.len()));
        std::fs::write(copy.join("config.json"), padded).unwrap();
        crate::support::open(copy)
    };
    assert_limit(config(limits::JSON_FILE), config(limits::JSON_FILE + 1), "bytes of JSON");
}

#[test]
fn limits_scans() {
    let folder = Folder::new();
    // The worst level of the findings, and the kind of the problem.
    let scan = |bytes: &[u8]| {
        let scan = scan_file(folder.write("file.pkl", bytes)).unwrap();
        (scan.level(), scan.problem.map(|error| error.kind()))
    };
    let safe = (Level::Safe, None);
    let incomplete = (Level::Safe, Some(Kind::Limit));
    let nested = |depth: usize| {
        let mut bytes = b"\x80\x02cm\nC\n.".to_vec();
        for _ in 0..depth {
            let load = b"\x80\x03ctorch.storage\n_load_from_bytes\nB";
            bytes = [&load[..], &(bytes.len() as u32).to_le_bytes(), &bytes, b"\x85R."].concat();
        }
        bytes
    };
    assert_eq!(scan(&nested(limits::SCAN_DEPTH)), (Level::Unknown, None));
    // What loads the innermost pickle stays dangerous, because that pickle was not scanned.
    assert_eq!(scan(&nested(limits::SCAN_DEPTH + 1)), (Level::Dangerous, Some(Kind::Limit)));
    assert_eq!(scan(&b"\x80\x02N.".repeat(limits::SCAN_STACKED)), safe);
    assert_eq!(scan(&b"\x80\x02N.".repeat(limits::SCAN_STACKED + 1)), incomplete);
    let half = |extra: usize| {
        let content = vec![0; limits::SCAN_BYTES as usize / 4 - 12 + extra];
        [&b"\x80\x04\x8e"[..], &(content.len() as u64).to_le_bytes(), &content, b"."].concat()
    };
    // Four pickles with the largest number of values each.
    let values = [&b"N0".repeat(limits::PICKLE_NODES - 1)[..], b"N."].concat().repeat(4);
    assert_eq!(limits::SCAN_VALUES, 4 * limits::PICKLE_NODES);
    assert_eq!(scan(&values), safe);
    assert_eq!(scan(&[&values[..], b"N."].concat()), incomplete);
    // Bytes that look like a NumPy array of objects are inflated before the check finds that they are not one.
    let array = |len: usize| {
        let mut content = b"\x93NUMPY\x02\0\xff\xff\xff\xff".to_vec();
        content.resize(len, 0);
        record(&format!("archive/{len}.npy"), &content).deflated()
    };
    let inflated = |extra: usize| {
        let quarter = limits::SCAN_BYTES as usize / 4;
        let arrays = [
            array(quarter - 1),
            array(quarter),
            array(quarter + 1),
            array(quarter + extra).with_name("archive/last.npy"),
        ];
        scan(&torch_with(record("archive/data.pkl", &tensor_and(b"")), &arrays))
    };
    assert_eq!(inflated(0), safe);
    assert_eq!(inflated(1), incomplete);
    // A nested zip costs 100 plus one per record.
    let empty = |count: usize| (0..count).map(|index| record(&format!("archive/x{index}"), b"")).collect::<Vec<_>>();
    let zips = |inner: usize| {
        let inner = record("archive/inner.zip", &raw_zip(b"", &empty(inner)));
        let more = [vec![inner], empty(limits::ZIP_ENTRIES - 4)].concat();
        scan(&torch_with(record("archive/data.pkl", &tensor_and(b"")), &more))
    };
    let left = limits::SCAN_RECORDS - limits::ZIP_ENTRIES - 200;
    assert_eq!(zips(left), safe);
    assert_eq!(zips(left + 1), incomplete);
    // Four quarters of the limit, the last one byte longer.
    assert_eq!(scan(&[half(0), half(0), half(0), half(0)].concat()), safe);
    assert_eq!(scan(&[half(0), half(0), half(0), half(1)].concat()), incomplete);
}
