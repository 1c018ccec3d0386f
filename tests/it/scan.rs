//! Scans files with every known trick to evade a scanner, and ordinary checkpoints.

use std::fs;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::hostile::Verdict::{Dangerous, Safe, Unknown, Unreadable};
use crate::support::hostile::{
    Case, KEYS, PAYLOAD, Record, SYSTEM, case, legacy, raw_zip, record, safetensors, tensor_and, torch, torch_with,
};
use crate::support::peers::Peers;
use crate::support::{self, FIXTURES, Folder, fixture, pickle_tensor};
use trinart_ckpt::formats::danger::{Level, judge};
use trinart_ckpt::formats::pickle::{Encoder, Name};

/// Scans each file separately. Checks the exit code, the verdict, and the error line for a file that cannot be read.
#[track_caller]
fn assert_verdicts(cases: &[Case]) {
    let folder = Folder::new();
    for case in cases {
        let path = folder.write(&case.name, &case.bytes);
        // Collect the files for a comparison with other scanners.
        if let Some(collection) = std::env::var_os("TRINART_HOSTILE_TO") {
            fs::copy(&path, Path::new(&collection).join(format!("{:?}-{}", case.verdict, case.name))).unwrap();
        }
        let ran = run!["scan", &path, "--json"];
        let (code, verdict) = match case.verdict {
            Dangerous => (1, "dangerous"),
            Unknown => (1, "unknown"),
            Safe => (0, "safe"),
            Unreadable => (2, "unreadable"),
        };
        let found = format!("{}: {}{}", case.name, ran.stdout, ran.stderr);
        let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&found);
        assert_eq!(document["files"][0]["verdict"], verdict, "{found}");
        assert_eq!(ran.code, Some(code), "{found}");
        let errors = ran.stderr.lines().count();
        assert!(errors <= 1 && (case.verdict != Unreadable || errors == 1), "{found}");
        assert!(!found.chars().any(|character| character.is_control() && character != '\n'), "{found:?}");
    }
    let Some(peers) = Peers::find() else { return };
    let judged = peers.scan(cases.iter().map(|case| folder.join(&case.name)));
    for name in judged["dangerous"].as_array().unwrap() {
        let case = cases.iter().find(|case| *name == case.name.as_str()).unwrap();
        let agrees = case.verdict == Dangerous || ONLY_UNKNOWN.iter().any(|(module, _)| case.name.starts_with(module));
        assert!(agrees, "picklescan rates {name} dangerous");
    }
}

/// Names that picklescan rates dangerous, but this program only unknown, because ordinary models contain them. They
/// do not run code by themselves; their arguments, and calls of their results, are rated separately.
const ONLY_UNKNOWN: &[(&str, &str)] =
    &[("functools", "partial"), ("operator", "itemgetter"), ("_operator", "itemgetter")];

#[test]
fn includes_the_lists_of_picklescan() {
    let Some(peers) = Peers::find() else { return };
    let lists = peers.scan::<&Path>([]);
    let names = |list: &str| serde_json::from_value::<Vec<(String, String)>>(lists[list].clone()).unwrap();
    assert!(names("unsafe").len() > 50 && names("safe").len() > 10);
    for (module, name) in names("unsafe") {
        let judgement = judge(&Name { module: module.clone(), name: name.clone() });
        let expected = if ONLY_UNKNOWN.contains(&(&module, &name)) { Level::Unknown } else { Level::Dangerous };
        assert!(judgement.level >= expected, "{module}.{name}: {judgement:?}");
    }
    for (module, name) in names("safe") {
        assert_eq!(judge(&Name { module: module.clone(), name: name.clone() }).level, Level::Safe, "{module}.{name}");
    }
}

fn dangerous(name: &str, bytes: impl AsRef<[u8]>) -> Case {
    case(name, bytes, Dangerous)
}

/// A tar file of these members, in the original (V7) format.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in members {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte: &u8| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend(header);
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    tar
}

/// Encodes a string as SHORT_BINUNICODE.
fn short(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

#[test]
fn finds_every_way_to_name_and_call_a_function() {
    let mut cases = vec![
        dangerous("p0.pkl", b"cposix\nsystem\n(S'true'\ntR."),
        dangerous("p0_windows.pkl", b"cnt\nsystem\n(Vtrue\ntR."),
        dangerous("p1.pkl", b"cposix\nsystem\nq\x00(U\x04trueq\x01tq\x02Rq\x03."),
        dangerous("p2.pt", PAYLOAD),
        dangerous("p3.bin", b"\x80\x03cposix\nsystem\nX\x04\0\0\0true\x85R."),
        dangerous(
            "p4.pkl",
            b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
        ),
        dangerous("inst.pkl", b"(S'true'\niposix\nsystem\n."),
        dangerous("obj.pkl", b"(cposix\nsystem\nS'true'\no."),
        dangerous("newobj.pkl", b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85\x81."),
        dangerous("newobj_ex.pkl", b"\x80\x04cposix\nsystem\nX\x04\0\0\0true\x85}\x92."),
        dangerous("named_only.pkl", b"\x80\x02cposix\nsystem\n."),
        dangerous("named_popped.pkl", b"\x80\x02cposix\nsystem\n0N."),
        dangerous("obj_popped.pkl", b"\x80\x02(cposix\nsystem\nS'true'\no0N."),
        dangerous("build_class.pkl", b"\x80\x02cfoo\nBar\n}X\x01\0\0\0aK\x01sb."),
        dangerous("dotted.pkl", [b"\x80\x04", &short("random")[..], &short("_os.system"), b"\x93)R."].concat()),
        dangerous(
            "memo.pkl",
            [b"\x80\x04", &short("posix")[..], b"q\x050", &short("system"), b"q\x060h\x05h\x06\x93)R."].concat(),
        ),
        dangerous(
            "memoize.pkl",
            [b"\x80\x04", &short("posix")[..], b"\x94", &short("system"), b"\x9400h\0h\x01\x93)R."].concat(),
        ),
        dangerous("memo_text_index.pkl", b"\x80\x02Vposix\np1_0\n0Vsystem\np 11\n0g10\ng1_1\n\x93(Vtrue\ntR."),
        dangerous("memo_endless_index.pkl", b"\x80\x02Vposix\nVsystem\np99999999999999999999999\n\x93(Vtrue\ntR."),
        dangerous(
            "memo_overwritten.pkl",
            b"\x80\x02Vcollections\nq\x010Vposix\nq\x010Vsystem\nq\x020h\x01h\x02\x93)R.",
        ),
        dangerous("unicode_escape.pkl", b"V\\u0070osix\nVs\\u0079stem\n\x93(Vtrue\ntR."),
        dangerous("hex_escape.pkl", b"S'\\x70osix'\nS'system'\n\x93(Vtrue\ntR."),
        // Number formats that Python accepts, before the payload.
        dangerous("hex_number.pkl", b"I0x10\n0cposix\nsystem\n(Vtrue\ntR."),
        dangerous("long_number.pkl", [b"L0x", &b"f".repeat(10_000)[..], b"L\n0cposix\nsystem\n(Vtrue\ntR."].concat()),
        dangerous("no_number.pkl", b"I\0x\n0cposix\nsystem\n(Vtrue\ntR."),
        dangerous("memo_zero.pkl", b"Vposix\np1\0x\n0Vsystem\np2\n0g1\ng2\n\x93(Vtrue\ntR."),
        dangerous("float.pkl", b"F1_0.5\n0cposix\nsystem\n(Vtrue\ntR."),
        dangerous("dup.pkl", [b"\x80\x04", &short("posix")[..], &short("system"), b"\x932)R."].concat()),
        dangerous("computed.pkl", [b"\x80\x04cfoo\nBar\n)R", &short("system")[..], b"\x93)R."].concat()),
        dangerous("rot13.pkl", b"\x80\x02c_codecs\nencode\nX\x05\0\0\0cbfvkX\x05\0\0\0rot13\x86R."),
        dangerous("called_result.pkl", b"\x80\x02cfoo\nBar\n)R)R."),
        dangerous("rebuild_from_type.pkl", b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cfoo\nbar\n)RNNNtR."),
        dangerous("ext1.pkl", b"\x80\x02\x82\x07)R."),
        dangerous("ext4.pkl", b"\x80\x02\x84\x07\0\0\0)R."),
        dangerous("persid.pkl", b"Pposix.system\n."),
        dangerous("binpersid.pkl", b"\x80\x02X\x05\0\0\0stuffX\x01\0\0\0a\x86Q."),
        dangerous("crlf.pkl", b"cposix\r\nsystem\r\n(S'true'\r\ntR."),
        dangerous("space.pkl", b"\x80\x02c posix\nsystem \n)R."),
        dangerous("zero_in_global.pkl", b"\x80\x02cposix\0\nsystem\n)R."),
        dangerous(
            "non_ascii.pkl",
            "\u{80}\x02"
                .as_bytes()
                .iter()
                .skip(1)
                .copied()
                .chain("cpos\u{131}x\nsystem\n)R.".bytes())
                .collect::<Vec<_>>(),
        ),
        dangerous("not_utf8.pkl", b"\x80\x02cpos\xffix\nsystem\n)R."),
        dangerous("long_name.pkl", [&b"\x80\x02c"[..], &b"a".repeat(4 << 20), b"\nb\n)R."].concat()),
        dangerous("bytearray_bomb.pkl", b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\xff\xff\xff\xff\xff\x0f\x85R."),
        dangerous("second_proto.pkl", b"\x80\x02N0\x80\x04cposix\nsystem\n)R."),
        dangerous("protocol_99.pkl", b"\x80\x63cposix\nsystem\n)R."),
        dangerous("stacked.pkl", [b"\x80\x02N.", PAYLOAD].concat()),
        dangerous("stacked_text.pkl", b"I1\n.cposix\nsystem\n(S'true'\ntR."),
        dangerous("leftover.pkl", b"\x80\x02NNcposix\nsystem\n)R."),
        dangerous("frame_past_end.pkl", b"\x80\x04\x95\xff\0\0\0\0\0\0\0cposix\nsystem\n)R."),
        dangerous("frame_in_frame.pkl", b"\x80\x04\x95\x20\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0cposix\nsystem\n)R."),
        // Python's C unpickler drops the rest of the line at the end of the frame, so it imports posix.system.
        dangerous("frame_cuts_name.pkl", b"\x80\x04\x95\x06\0\0\0\0\0\0\0cjson.posix\nsystem\n(Vtrue\ntR."),
        dangerous("buffer.pkl", b"\x80\x05\x97\x980cposix\nsystem\n)R."),
    ];
    // Damage after the payload, or between its parts, does not stop it.
    for (name, tail) in [
        ("cut", &b""[..]),
        ("invalid", b"\xff"),
        ("long", b"X\xff\xff\xff\x7f"),
        ("missing_memo", b"h\x63"),
        ("underflow", b"00000R"),
        ("mark", b"t"),
        ("frame", b"\x95\xff"),
        ("surrogate", b"X\x01\0\0\0\xff"),
    ] {
        let stream = PAYLOAD.strip_suffix(b"0N.").unwrap();
        cases.push(dangerous(&format!("broken_{name}.pkl"), [stream, tail].concat()));
        let text = b"cposix\nsystem\n(S'true'\ntR";
        cases.push(dangerous(&format!("broken_text_{name}.pkl"), [text, tail].concat()));
    }
    assert_verdicts(&cases);
}

#[test]
fn finds_pickles_within_pickles() {
    let latin: String = PAYLOAD.iter().map(|&byte| char::from(byte)).collect();
    let text = [&b"X"[..], &(latin.len() as u32).to_le_bytes(), latin.as_bytes()].concat();
    let bytes = |content: &[u8]| [&b"B"[..], &(content.len() as u32).to_le_bytes(), content].concat();
    let load =
        |content: &[u8]| [b"\x80\x03ctorch.storage\n_load_from_bytes\n", &bytes(content)[..], b"\x85R."].concat();
    let good = legacy(SYSTEM, &tensor_and(b""), KEYS);
    let computed = b"\x80\x03ctorch.storage\n_load_from_bytes\ncbuiltins\nbytes\n](K\x80K\x02e\x85R\x85R.";
    let mut twice = load(&load(PAYLOAD));
    for _ in 0..3 {
        twice = load(&twice);
    }
    assert_verdicts(&[
        dangerous("loaded.pkl", load(PAYLOAD)),
        dangerous("loaded_text.pkl", load(b"cposix\nsystem\n(S'true'\ntR.")),
        dangerous("loaded_broken.pkl", load(PAYLOAD.strip_suffix(b"0N.").unwrap())),
        dangerous("loaded_nothing.pkl", load(b"\x13\x37")),
        // A safe call of a loader does not make the next call safe.
        dangerous(
            "loaded_good_and_computed.pkl",
            [load(&good).strip_suffix(b".").unwrap(), b"0", &computed[..]].concat(),
        ),
        dangerous("loaded_computed_and_good.pkl", [&computed[..], b"0", &load(&good)[2..]].concat()),
        dangerous("loaded_by_another.pkl", {
            let handed = b"0cfoo\nBar\nctorch.storage\n_load_from_bytes\n\x85R.";
            [load(&good).strip_suffix(b".").unwrap(), handed].concat()
        }),
        // Bytes may begin with any opcode.
        dangerous(
            "lying_about_any.pkl",
            [b"\x80\x03", &bytes(b"J\0\0\0\x000cposix\nsystem\n(Vtrue\ntR.")[..], b"."].concat(),
        ),
        dangerous("loaded_never.pkl", b"\x80\x02ctorch.storage\n_load_from_bytes\n0N."),
        dangerous("loaded_elsewhere.pkl", b"\x80\x02ctorch.storage\n_load_from_bytes\n\x85.\x80\x02N."),
        dangerous("loaded_good_and_handed_out.pkl", {
            let handed = b"0ctorch.storage\n_load_from_bytes\n.";
            [load(&good).strip_suffix(b".").unwrap(), handed].concat()
        }),
        dangerous("loaded_grown.pkl", {
            let magic = &good[..good.iter().position(|&byte| byte == b'.').unwrap() + 1];
            let array = [&b"\x96"[..], &(magic.len() as u64).to_le_bytes(), magic, b"(K\x80K\x02e"].concat();
            [b"\x80\x05ctorch.storage\n_load_from_bytes\n", &array[..], b"\x85R."].concat()
        }),
        // In Latin-1, the text includes the call; in UTF-8, it ends before the call.
        dangerous("loaded_utf8.pkl", {
            let inner = ["N0X\x1e\0\0\0", &"\u{e9}".repeat(15), "0cposix\nsystem\n."].concat();
            let text = [&b"X"[..], &(inner.len() as u32).to_le_bytes(), inner.as_bytes()].concat();
            let load = b"\x80\x03ctorch.storage\n_load_from_bytes\nc_codecs\nencode\n";
            [&load[..], &text, b"X\x05\0\0\0utf-8\x86R\x85R."].concat()
        }),
        dangerous("loaded_computed.pkl", b"\x80\x03ctorch.storage\n_load_from_bytes\ncfoo\nBar\n)R\x85R."),
        dangerous("loaded_deep.pkl", &twice),
        dangerous("loaded_zip.pkl", load(&torch(PAYLOAD))),
        dangerous(
            "loaded_latin.pkl",
            [
                b"\x80\x02ctorch.storage\n_load_from_bytes\nc_codecs\nencode\n",
                &text[..],
                b"X\x06\0\0\0latin1\x86R\x85R.",
            ]
            .concat(),
        ),
        dangerous("loads.pkl", [b"\x80\x03c_pickle\nloads\n", &bytes(PAYLOAD)[..], b"\x85R."].concat()),
        dangerous("lying_about.pkl", [b"\x80\x03", &bytes(PAYLOAD)[..], b"."].concat()),
        dangerous("text_lying_about.pkl", [b"\x80\x02", &text[..], b"."].concat()),
        // A state dict as `pickle.dump` writes it, and bytes that start like a pickle but are not one.
        case("loaded_good.pkl", load(&good), Safe),
        case("noise.pkl", [b"\x80\x03", &bytes(b"\x80\x02\x82\x07\xff\xff")[..], b"."].concat(), Safe),
        case("prose.pkl", [&b"\x80\x03"[..], &bytes(b"import os\nand so on\nPlease.")[..], b"."].concat(), Safe),
    ]);
}

#[test]
fn finds_pickles_that_zip_tricks_hide() {
    let evil = || record("archive/data.pkl", PAYLOAD);
    let good = tensor_and(b"");
    let good_record = || record("archive/data.pkl", &good);
    let npy = [&b"\x93NUMPY\x01\0\x04\0{ }\n"[..], b"\x80\x03cposix\nsystem\n)R."].concat();
    let more = |extra: Record| torch_with(good_record(), &[extra]);
    assert_verdicts(&[
        dangerous("plain.ckpt", torch(PAYLOAD)),
        dangerous("in_tensors.ckpt", torch(&tensor_and(b"cposix\nsystem\n)R0"))),
        dangerous("deflated.ckpt", torch_with(evil().deflated(), &[])),
        dangerous("local_name.ckpt", torch_with(evil().with_local_name("archive/data.txt"), &[])),
        dangerous("local_flag_1.ckpt", torch_with(evil().with_flags(1, 0), &[])),
        dangerous("local_flag_20.ckpt", torch_with(evil().with_flags(0x20, 0), &[])),
        dangerous("flag_40.ckpt", torch_with(evil().with_flags(0x40, 0x40), &[])),
        dangerous("flag_1.ckpt", torch_with(evil().with_flags(1, 1), &[])),
        dangerous("checksum.ckpt", torch_with(evil().with_wrong_crc32(), &[])),
        dangerous("no_size.ckpt", torch_with(evil().with_sizes(0, PAYLOAD.len() as u32), &[])),
        dangerous("other_size.ckpt", torch_with(evil().with_sizes(PAYLOAD.len() as u32, 3), &[])),
        dangerous("name_png.ckpt", more(record("archive/picture.png", PAYLOAD))),
        dangerous("name_none.ckpt", more(record("archive/data/1", PAYLOAD))),
        dangerous("text_no_extension.ckpt", more(record("archive/notes", b"cposix\nsystem\n(S'true'\ntR."))),
        dangerous("other_folder.ckpt", more(record("other/data.pkl", PAYLOAD))),
        dangerous("no_folder.ckpt", more(record("data.pkl", PAYLOAD))),
        dangerous("case.ckpt", more(record("archive/DATA.PKL", PAYLOAD))),
        dangerous("first_of_two.ckpt", torch_with(evil(), &[good_record()])),
        dangerous("last_of_two.ckpt", torch_with(good_record(), &[evil()])),
        dangerous(
            "unlisted.ckpt",
            torch_with(good_record(), &[record("archive/x.pkl", PAYLOAD).unlisted(), record("archive/z", b"")]),
        ),
        dangerous("unlisted_last.ckpt", more(record("archive/x.pkl", PAYLOAD).unlisted())),
        dangerous("comment_like_an_end.ckpt", {
            let mut zip = torch(PAYLOAD);
            let comment = [&b"PK\x05\x06"[..], &[b'x'; 40]].concat();
            let end = zip.len() - 2;
            zip[end..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
            [zip, comment].concat()
        }),
        dangerous("unlisted_first.ckpt", torch_with(evil().unlisted(), &[good_record()])),
        dangerous("behind_bytes.ckpt", raw_zip(b"some bytes", &[evil()])),
        dangerous("behind_pickle.pkl", raw_zip(b"\x80\x02N.", &[evil()])),
        dangerous("behind_safetensors.safetensors", raw_zip(&safetensors(b"{}", 0), &[evil()])),
        dangerous("zip_in_zip.ckpt", more(record("archive/model.pt", &torch(PAYLOAD)))),
        dangerous("deflated_zip_in_zip.ckpt", more(record("archive/model.pt", &torch(PAYLOAD)).deflated())),
        dangerous("behind_in_zip.ckpt", more(record("archive/x", &raw_zip(b"some bytes", &[evil()])))),
        dangerous("behind_in_deflated.ckpt", more(record("archive/x", &raw_zip(b"some bytes", &[evil()])).deflated())),
        dangerous("behind_png_in_zip.ckpt", more(record("archive/x.png", &raw_zip(b"\x89PNG\r\n\x1a\n", &[evil()])))),
        dangerous("behind_in_tar.tar", tar(&[("x", &raw_zip(b"some bytes", &[evil()]))])),
        dangerous("array.npy", &npy),
        dangerous("array.npz", raw_zip(b"", &[record("a.npy", &npy).deflated()])),
        dangerous("script.pt", more(record("archive/constants.pkl", PAYLOAD))),
        case("bzip2.ckpt", torch_with(evil().with_method(12), &[]), Unreadable),
        case("encrypted.ckpt", torch_with(record("archive/data.pkl", &[7; 50]).with_flags(1, 1), &[]), Unreadable),
        case("good.ckpt", torch(&good), Safe),
        case("good_deflated.ckpt", torch_with(good_record().deflated(), &[]), Safe),
    ]);
}

/// Files of which one reader sees less than another.
#[test]
fn sees_what_each_reader_takes() {
    let numbers = |descr: &str, content: &[u8]| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,)}}");
        [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), content].concat()
    };
    let objects = numbers("'|O'", PAYLOAD);
    // Python takes the directory that ends at the end record, and other readers the one at its offset.
    let two_directories = {
        let find = |zip: &[u8], signature: &[u8]| zip.windows(4).rposition(|window| window == signature).unwrap();
        let inner = raw_zip(b"", &[record("a.npy", &objects)]);
        let (begin, end) = (find(&inner, b"PK\x01\x02"), find(&inner, b"PK\x05\x06"));
        let outer = raw_zip(b"", &[record("a.npy", &numbers("'|u1'", &inner[..begin]))]);
        let outer_end = find(&outer, b"PK\x05\x06");
        let mut end_record = outer[outer_end..].to_vec();
        end_record[12..16].copy_from_slice(&((end - begin) as u32).to_le_bytes());
        [&outer[..outer_end], &inner[begin..end], &end_record].concat()
    };
    // Numbers in another base have as many bytes for NumPy, but not here.
    let odd_shape = {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (0x1,)}";
        [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), b"abcd", &objects].concat()
    };
    // An extended header names the next member, whose own name is empty.
    let empty_name = [&tar(&[("a", b"x")])[..1024], &tar(&[("", PAYLOAD)])].concat();
    let sparse = {
        let mut header = tar(&[("x", b"22 GNU.sparse.major=1\n")]);
        header[156] = b'x';
        [&header[..1024], &tar(&[("m", &[&b"1\n0\n40\n"[..], &[0; 504], PAYLOAD].concat())])].concat()
    };
    let underscores = {
        let mut tar = tar(&[("m", PAYLOAD)]);
        tar[124..136].copy_from_slice(b"0_0000000050");
        tar
    };
    let key = [
        &b"\x80\x02}X\x01\0\0\0ac"[..],
        b"torch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nByteStorage\n",
    ]
    .concat();
    let len = (objects.len() as u32).to_le_bytes();
    let array_as_storage = [
        &key[..],
        b"X\x05\0\0\0x.npyX\x03\0\0\0cpuJ",
        &len,
        b"tQK\0J",
        &len,
        b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat();
    let array_as_storage = [record("archive/data.pkl", &array_as_storage), record("archive/data/x.npy", &objects)];
    assert_verdicts(&[
        dangerous("comment.npy", numbers("#'descr': '<f4'\n '|O'", PAYLOAD)),
        dangerous("joined.npy", numbers("'<f4' ',O'", PAYLOAD)),
        dangerous("date_and_object.npy", numbers("'M8[ns],O'", PAYLOAD)),
        dangerous("field_of_objects.npy", numbers("[('a', 'm8[s],O')]", PAYLOAD)),
        dangerous(
            "behind_fields.npy",
            numbers("[('a', '<f4'), ('b', '|S3', (2,))]", &[b"0123456789", &objects[..]].concat()),
        ),
        dangerous("behind_date.npy", numbers("'<M8[ns]'", &[b"01234567", &objects[..]].concat())),
        case("odd_shape.npy", odd_shape, Unreadable),
        case("behind_fields_alone.npy", numbers("[('a', '<f4')]", b"0123"), Safe),
        case("directories.npz", two_directories, Unreadable),
        dangerous("storage.ckpt", raw_zip(b"", &array_as_storage)),
        dangerous("empty_name.tar", empty_name),
        dangerous("sparse.tar", sparse),
        dangerous("underscores.tar", underscores),
    ]);
}

#[test]
fn scans_every_pickle_of_a_legacy_file_or_tar() {
    let good = tensor_and(b"");
    let evil = tensor_and(b"cposix\nsystem\n)R0");
    let begin = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    assert_verdicts(&[
        dangerous("object.pt", legacy(SYSTEM, &evil, KEYS)),
        dangerous("system.pt", legacy(PAYLOAD, &good, KEYS)),
        dangerous("keys.pt", legacy(SYSTEM, &good, PAYLOAD)),
        dangerous("version.pt", [&begin[..], PAYLOAD].concat()),
        dangerous("magic.pt", [&b"\x80\x02cfoo\nbar\n)R."[..], PAYLOAD].concat()),
        dangerous(
            "broken_object.pt",
            [&begin[..], b"\x80\x02M\xe9\x03.", SYSTEM, PAYLOAD.strip_suffix(b"0N.").unwrap(), b"\xff"].concat(),
        ),
        dangerous(
            "module.pt",
            legacy(SYSTEM, &tensor_and(b"(X\x06\0\0\0modulecos\nsystem\nX\x01\0\0\0fX\x01\0\0\0stQ)R0"), KEYS),
        ),
        // The format of PyTorch before 0.2, which versions up to 2.5 load even with `weights_only=True`.
        dangerous("tar.pt", tar(&[("sys_info", SYSTEM), ("pickle", PAYLOAD), ("tensors", b"\x80\x02K\0.")])),
        dangerous("tar_text.pt", tar(&[("pickle", b"cposix\nsystem\n(S'true'\ntR.")])),
        dangerous("tar_broken.pt", &tar(&[("storages", PAYLOAD.strip_suffix(b"0N.").unwrap())])[..540]),
        dangerous(
            "tar_in_zip.ckpt",
            torch_with(record("archive/data.pkl", &good), &[record("archive/x", &tar(&[("pickle", PAYLOAD)]))]),
        ),
        case("tar_good.pt", tar(&[("sys_info", SYSTEM), ("pickle", &good), ("storages", b"\x80\x02K\0.")]), Unreadable),
        case("tar_of_files.tar", tar(&[("a/model.ckpt", &torch(&good)), ("notes.txt", b"notes\n")]), Safe),
        case("good.pt", legacy(SYSTEM, &good, KEYS), Safe),
        case("cut.pt", &legacy(SYSTEM, &good, KEYS)[..120], Unreadable),
    ]);
}

#[test]
fn rates_classes_of_ordinary_checkpoints_at_most_unknown() {
    let class =
        |module: &str, name: &str| case(&format!("{module}.{name}.pkl"), format!("c{module}\n{name}\n)R."), Unknown);
    assert_verdicts(&[
        class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        class("omegaconf.listconfig", "DictConfig"),
        class("omegaconf.nodes", "EnumNode"),
        class("ultralytics.nn.tasks", "DetectionModel"),
        class("ultralytics.nn.modules.conv", "Conv"),
        class("models.yolo", "Model"),
        class("torch.nn.modules.conv", "Conv2d"),
        class("torch.optim.adamw", "AdamW"),
        class("functools", "partial"),
        class("__main__", "Config"),
        case("numpy.pkl", b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8K\0K\x01\x87Rc_codecs\nencode\nX\x08\0\0\0\0\0\0\0\0\0\0\0X\x06\0\0\0latin1\x86R\x86R.", Safe),
        case("counter.pkl", b"ccollections\nCounter\n((dtR.", Safe),
    ]);
    for name in FIXTURES.iter().chain(&["diffusers/sd1"]) {
        let ran = run!["scan", fixture(name), "--json=document"];
        assert_eq!((ran.stderr.as_str(), ran.stdout.contains("\"dangerous\": 0")), ("", true), "{name}");
    }
}

#[test]
fn distinguishes_bombs_from_data() {
    let doubled = |item: &[u8], count: usize| [&b"\x80\x02"[..], item, &b"2\x86".repeat(count), b"."].concat();
    let lists = (0..60_u8).map(|index| [b']', b'q', index].to_vec()).reduce(|all, list| [all, list].concat()).unwrap();
    let fill = (1..60_u8).rev().flat_map(|index| [b'h', index - 1, b'h', index, b'a', b'h', index, b'a', b'0']);
    assert_verdicts(&[
        dangerous("doubled.pkl", doubled(b"]", 60)),
        dangerous("lists.pkl", [b"\x80\x02", &lists[..], &fill.collect::<Vec<_>>(), b"h\0."].concat()),
        dangerous("nested.pkl", [&b"\x80\x02)"[..], &b"\x85".repeat(100_000), b"."].concat()),
        dangerous("memo.pkl", b"\x80\x02Nr\xff\xff\xff\xff."),
        case("shared.pkl", doubled(b"]", 20), Safe),
        case("marks.pkl", [&b"\x80\x02"[..], &b"(".repeat(5_000_000)].concat(), Unreadable),
        dangerous("deep.pkl", [&b"\x80\x02)"[..], &b"\x85".repeat(1_500_000), b"."].concat()),
        case("not_a_checkpoint.pt", b"\x13\x37 not a checkpoint", Unreadable),
        case(
            "tar.pt",
            {
                let mut tar = vec![0; 1024];
                tar[..7].copy_from_slice(b"pickle\0");
                tar[257..262].copy_from_slice(b"ustar");
                tar
            },
            Unreadable,
        ),
        case("seven.pt", b"7z\xbc\xaf\x27\x1c\0\x04", Unreadable),
    ]);
}

/// Repeating a record name of 60,000 bytes in each nested finding would give a report of gigabytes.
#[test]
fn shortens_record_names_that_repeat_in_findings() {
    let folder = Folder::new();
    let evil: Vec<_> = (0..2000).map(|index| record(&format!("{index}.pkl"), PAYLOAD)).collect();
    let mut zip = raw_zip(b"", &evil);
    for _ in 0..4 {
        zip = raw_zip(b"", &[record(&"n".repeat(60_000), &zip)]);
    }
    let ran = run!["scan", folder.write("long.ckpt", &zip), "--json"];
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.len() < 10_000_000, "{}", ran.stdout.len());
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let place = document["files"][0]["findings"][0]["place"].as_str().unwrap();
    assert!(place.starts_with("nnn") && place.ends_with(".pkl") && place.len() < 1000, "{place}");
}

#[cfg(unix)]
#[test]
fn searches_folders_and_counts_other_files() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("a/b")).unwrap();
    let write = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    write("a/good.ckpt", &torch(&tensor_and(b"")));
    write("a/b/evil", PAYLOAD);
    write("a/notes.md", b"import os\nand so on\n");
    write("a/b/config.json", b"{}");
    write("a/b/picture.png", b"\x89PNG\r\n\x1a\n\0");
    write("a/b/spiece.model", b"\x0a\x0e\x0a\x05<unk>");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("a/socket")).unwrap();
    let text = run!["scan", folder.join("a")].no();
    let summary =
        "2 files scanned, 1 dangerous, 1 safe; skipped: 1 image, 1 special file, 2 text files, 1 other file\n";
    assert!(text.ends_with(summary), "{text}");
    assert!(text.starts_with(&format!("{}: dangerous", folder.join("a/b/evil").display())), "{text}");
    let quiet = run!["scan", folder.join("a"), "-q"].no();
    assert!(text.starts_with(&quiet) && quiet.lines().count() == 2, "{quiet}");
    write("a/empty.ckpt", b"");
    let ran = run!["scan", folder.join("a"), "--json=document"];
    assert_eq!(ran.code, Some(1));
    support::assert_one_line(&ran.stderr, &["empty.ckpt", "an empty file"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["skipped"], serde_json::json!({"image": 1, "special": 1, "text": 2, "unknown": 1}));
    fs::remove_file(folder.join("a/b/evil")).unwrap();
    assert_eq!(run!["scan", folder.join("a")].code, Some(2));
    run!["scan", folder.join("a/notes.md")].refused(&["notes.md", "not a checkpoint"]);
    assert_eq!(run!["scan", folder.join("missing")].code, Some(2));
}

/// A cache of the Hugging Face Hub links names to files that are named by hash.
#[cfg(unix)]
#[test]
fn follows_links_once() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("hub/blobs")).unwrap();
    fs::create_dir_all(folder.join("hub/snapshots/main")).unwrap();
    folder.write("hub/blobs/6e9c", PAYLOAD);
    folder.write("hub/blobs/f00d", torch(&tensor_and(b"")));
    symlink("../../blobs/6e9c", folder.join("hub/snapshots/main/model.bin")).unwrap();
    symlink("../../blobs/f00d", folder.join("hub/snapshots/main/good.ckpt")).unwrap();
    let snapshot = run!["scan", folder.join("hub/snapshots")].no();
    assert!(snapshot.contains("main/model.bin: dangerous") && snapshot.contains("main/good.ckpt: safe"), "{snapshot}");
    assert!(snapshot.ends_with("2 files scanned, 1 dangerous, 1 safe\n"), "{snapshot}");
    symlink("..", folder.join("hub/snapshots/main/loop")).unwrap();
    symlink(folder.join("hub"), folder.join("hub/blobs/again")).unwrap();
    assert_eq!(run!["scan", folder.join("hub/snapshots")].no().lines().last(), snapshot.lines().last());
    let all = run!["scan", folder.join("hub")].no();
    assert!(all.contains("model.bin: dangerous") && !all.contains("blobs/6e9c"), "{all}");
    assert_eq!(all.lines().last(), snapshot.lines().last());
    // Links to folders and from the command line.
    symlink("hub/snapshots/main", folder.join("linked")).unwrap();
    assert_eq!(run!["scan", folder.join("linked")].code, Some(1));
    assert_eq!(run!["scan", folder.join("linked/model.bin")].code, Some(1));
    // A link that leads nowhere may lead to a pickle tomorrow.
    fs::remove_file(folder.join("hub/blobs/6e9c")).unwrap();
    let ran = run!["scan", folder.join("hub/snapshots")];
    assert_eq!(ran.code, Some(2));
    support::assert_one_line(&ran.stderr, &["model.bin", "cannot follow the link"]);
}

/// A torch zip whose pickle refers to records with these contents, of one byte per element.
fn torch_of(storages: &[Vec<u8>]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let names: Vec<String> = (0..storages.len()).map(|index| index.to_string()).collect();
    let entries = names.iter().zip(storages);
    let entry = |encoder: &mut Encoder, (name, bytes): (&String, &Vec<u8>)| {
        encoder.str(name)?;
        pickle_tensor(encoder, ("torch", "ByteStorage"), name, bytes.len() as u64);
        Ok(())
    };
    encoder.dict(entries.clone(), entry).unwrap();
    let mut records: Vec<Record> =
        entries.map(|(name, bytes)| record(&format!("archive/data/{name}"), bytes)).collect();
    records.push(record("archive/version", b"3\n"));
    records.insert(0, record("archive/data.pkl", &encoder.finish()));
    raw_zip(b"", &records)
}

#[test]
fn takes_storages_for_data() {
    // Bytes that begin like a pickle, and random ones.
    let mut storages: Vec<Vec<u8>> = [
        &b"\x82\xa0."[..],
        b"N.",
        b"\x80\x02N.",
        b"\x80\x02\x8c",
        b"cposix\nsystem\n(V",
        b"cposix\nsystem\n(Vtrue\ntR\xff",
        b"U\xff",
        b"\x1f\x8b\x08",
        b"\x78\x9c",
        b"\x89HDF\r\n\x1a\n",
        b"\x08\x01\x12",
        b"BZh91AY",
    ]
    .map(|start| [start, &[0; 8]].concat())
    .to_vec();
    let mut state = 1_u64;
    storages.extend((0..20_000).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 8).to_le_bytes()[..7].to_vec()
    }));
    let mut cases: Vec<Case> = storages
        .chunks(2000)
        .enumerate()
        .map(|(index, storages)| case(&format!("{index}.ckpt"), torch_of(storages), Safe))
        .collect();
    // A header whose length begins like PROTO.
    for length in [0x180_usize, 0x280, 0x380, 0x480, 0x580, 0x680, 0x1_0180] {
        let header = [b"{}".as_slice(), &b" ".repeat(length - 2)].concat();
        cases.push(case(&format!("{length}.safetensors"), safetensors(&header, 0), Safe));
    }
    let numbers = b"\x93NUMPY\x01\0\x37\0{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}";
    cases.push(case("numbers.npy", [&numbers[..], b"N.\0\0"].concat(), Safe));
    cases.push(case("numbers.npz", raw_zip(b"", &[record("a.npy", &numbers[..]).deflated()]), Safe));
    // A pickle that acts and ends is one, wherever it is.
    cases.push(dangerous("storage.ckpt", torch_of(&[PAYLOAD.to_vec()])));
    // A storage of another size than the pickle says is not data.
    let storage = [record("archive/data/0", b"cposix\nsystem\n(Vtrue\ntR\xff")];
    let pickle = record("archive/data.pkl", &tensor_and(b""));
    cases.push(dangerous("size.ckpt", raw_zip(b"", &[vec![pickle], storage.to_vec()].concat())));
    assert_verdicts(&cases);
}

#[test]
fn finds_pickles_in_files_of_any_kind() {
    let call = b"cposix\nsystem\n(Vtrue\ntR";
    let computed = b"cbuiltins\nstr\n(Vposix\ntRVsystem\n\x93(Vtrue\ntR\xff";
    let evil = raw_zip(b"", &[record("a/data.pkl", PAYLOAD)]);
    let deflate = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut cases = vec![
        dangerous("behind.png", [b"\x89PNG\r\n\x1a\n".as_slice(), &evil].concat()),
        dangerous("behind.gguf", [b"GGUF\x03\0\0\0".as_slice(), &evil].concat()),
        // A reader may find the first signature, or count from the end.
        dangerous("decoy.zip", [b"PK\x03\x04 a decoy".as_slice(), &evil].concat()),
        dangerous("member.tar", tar(&[("a/model", &[&call[..], b"."].concat())])),
        dangerous("member.tar.gz", deflate(&tar(&[("a/model", computed)]))),
        dangerous("stacked.pkl", [b"(dp0\n.N.", &call[..], b"."].concat()),
        dangerous("torch_script.pt", {
            let records = [("a/data.pkl", PAYLOAD), ("a/constants.pkl", b"\x80\x02)."), ("a/code/a.py", b"pass")];
            raw_zip(b"", &records.map(|(name, content)| record(name, content)))
        }),
    ];
    // A shelf of dbm.dumb pads its values to 512 bytes. Other databases begin with pages of their own.
    let value = [b"\x80\x04", &call[..], b"."].concat();
    let shelf = [&b"\x80\x04K\x01."[..], &[0; 507]].concat();
    cases.push(dangerous("shelf.dat", [&shelf[..], &value].concat()));
    cases.push(dangerous("pages.db", [&[0x13, 0x37, 0xff], &[0; 1000][..], &value, &[0xff; 9]].concat()));
    // Text of protocols 0 and 1: the module may follow letters, and the pickle may break behind the call.
    for (name, call) in [
        ("reduce", &b"abccposix\nsystem\np0\n(Vtrue\np1\ntp2\nRp3\n."[..]),
        ("binary", b"\x00cposix\nsystem\nq\x00(U\x04trueq\x01tR\xff"),
        ("object", b"\x00(cposix\nsystem\nVtrue\no."),
        ("instance", b"\xff(lp0\n(S'true'\nip0six\n0(S'true'\niposix\nsystem\n."),
    ] {
        cases.push(dangerous(&format!("{name}.db"), [&[0x13, 0x37, 0xff, 0][..], call, &[0; 9]].concat()));
    }
    // A break hides nothing. Opcodes that begin alike take no time, and a file of no known kind is not readable.
    let broken = [&[0x13, 0x37, 0xff][..], b"\x80\x02N\x80\x02N", &value[..value.len() - 1], b"\xff"].concat();
    cases.push(dangerous("broken.db", broken));
    cases.push(case("repeated.db", [b"\x13".as_slice(), &b"\x80\x02N".repeat(1 << 20)].concat(), Unreadable));
    cases.push(case("lines.db", [b"\x13".as_slice(), &b"\x80\x02I".repeat(1 << 20)].concat(), Unreadable));
    let words = b"\x13\xff\xffbasic\ncat\nob\nposix\nsystem\n.cache\nclass\nobject\nbccos\nsystem\nR\ncos\nsystem\n.\n";
    cases.push(case("words.db", words, Unreadable));
    cases.push(case("data_behind.pkl", [&shelf[..], &[1, 2, 3]].concat(), Unreadable));
    cases.push(case("padded.pkl", shelf, Safe));
    for ending in ["", ".sav", ".p", ".dill", ".bak", ".txt", ".json", ".safetensors", ".png"] {
        cases.push(dangerous(&format!("bare{ending}"), [&call[..], b"."].concat()));
        cases.push(dangerous(&format!("computed{ending}"), computed));
        cases.push(dangerous(&format!("compressed{ending}"), deflate(computed)));
    }
    let script = [
        ("a/data.pkl", &b"\x80\x02c__torch__\nM\n)\x81."[..]),
        ("a/constants.pkl", b"\x80\x02)."),
        ("a/code/__torch__.py", b"class M(Module):\n"),
    ];
    cases.push(case("script.pt", raw_zip(b"", &script.map(|(name, content)| record(name, content))), Unknown));
    let package = [("a/.data/extern_modules", &b"torch\n"[..]), ("a/m.py", b"x = 1\n")];
    cases.push(case("package.pt", raw_zip(b"", &package.map(|(name, content)| record(name, content))), Unknown));
    assert_verdicts(&cases);
}

#[test]
fn looks_into_archives_with_code() {
    let archive = |records: &[(&str, &[u8])]| {
        let records: Vec<_> = records.iter().map(|(name, content)| record(name, content).deflated()).collect();
        raw_zip(b"", &records)
    };
    let library = [&b"\x7fELF\x02\x01\x01"[..], &[0; 57]].concat();
    let windows = [&b"MZ"[..], &[0; 58], &[64, 0, 0, 0], b"PE\0\0"].concat();
    let metadata = ("metadata.json", &b"{\"keras_version\": \"3.5.0\"}"[..]);
    let weights = ("model.weights.h5", &b"\x89HDF\r\n\x1a\n\0"[..]);
    let honest = br#"{"module": "keras", "class_name": "Sequential", "config": {"layers": [
        {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3, "activation": "relu"}}]}}"#;
    let lambda = [&b"{\"padding\": \""[..], &[b'x'; 10_000], br#"", "layers": [{"class_name": "Lambda"}]}"#].concat();
    let imports = br#"{"module": "os", "class_name": "function", "config": "system"}"#;
    let mine = br#"{"module": "mine", "class_name": "Layer", "config": {}}"#;
    assert_verdicts(&[
        dangerous(
            "compiled.pt2",
            archive(&[("m/archive_format", b"pt2"), ("m/data/aotinductor/model/m.so", &library)]),
        ),
        dangerous("extension.zip", archive(&[("a.bin", &windows)])),
        dangerous("nested.zip", archive(&[("b.zip", &archive(&[("a", &library)]))])),
        dangerous("member.so.tar", tar(&[("lib", &library)])),
        case("exported.pt2", archive(&[("m/archive_format", b"pt2"), ("m/models/model.json", b"{}")]), Unknown),
        case("honest.keras", archive(&[("config.json", honest), metadata, weights]), Safe),
        dangerous("lambda.keras", archive(&[("config.json", &lambda), metadata, weights])),
        dangerous("imports.keras", archive(&[("config.json", imports)])),
        case("mine.keras", archive(&[("config.json", mine), metadata]), Unknown),
        case("broken.keras", archive(&[("config.json", b"{"), metadata]), Unreadable),
        case("application.zip", archive(&[("__main__.py", b"pass")]), Unknown),
        // Python's name of this record is a/data.pkl.
        case("zero_in_name.pt", archive(&[("a/data.pkl\0x", b"cmine\nModel\n\xff")]), Unreadable),
    ]);
}

#[test]
fn bounds_keys_with_one_hash() {
    // Multiples of 2^61 - 1, whose hash in Python is 0.
    let keys = |count: u64| -> Vec<u8> {
        let key = |index: u64| {
            [b"\x8a\x09", &((1_u64 << 61) - 1).wrapping_mul(8 + index).to_le_bytes()[..], b"\x01N"].concat()
        };
        [b"\x80\x02}(", &(0..count).flat_map(key).collect::<Vec<u8>>()[..], b"u."].concat()
    };
    let pairs = |count: u32| -> Vec<u8> {
        let pair =
            |index: u32| [b"J", &index.to_le_bytes()[..], b"J", &(count - index).to_le_bytes()[..], b"\x86N"].concat();
        [b"\x80\x02}(", &(0..count).flat_map(pair).collect::<Vec<u8>>()[..], b"u."].concat()
    };
    assert_verdicts(&[case("pairs.pkl", pairs(20_000), Safe), case("many.pkl", keys(100_000), Unknown)]);
}

#[cfg(unix)]
#[test]
fn follows_no_link_out_of_a_folder() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("a/b/c")).unwrap();
    folder.write("a/b/good.ckpt", torch(&tensor_and(b"")));
    folder.write("a/evil.pkl", PAYLOAD);
    symlink("../..", folder.join("a/b/c/up")).unwrap();
    symlink("/", folder.join("a/b/c/root")).unwrap();
    let ran = run!["scan", folder.join("a/b")];
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(2), 3), "{}", ran.stdout);
    assert_eq!(ran.stderr.matches("contains the one being read").count(), 2, "{}", ran.stderr);
}

#[test]
fn names_what_it_cannot_open() {
    let folder = Folder::new();
    for (name, bytes, words) in [
        ("a.7z", &b"7z\xbc\xaf\x27\x1c\0\x04"[..], "cannot be opened"),
        ("a.rar", b"Rar!\x1a\x07\x01\0", "cannot be opened"),
        ("a.bz2", b"BZh91AY&SY", "cannot be opened"),
        ("a.xz", b"\xfd7zXZ\0\0\x04", "cannot be opened"),
        ("a.zst", b"\x28\xb5\x2f\xfd\x04", "cannot be opened"),
        ("a.h5", b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        ("saved_model.pb", b"\x08\x01\x12\x90\x01", "TensorFlow"),
        // Longer than the limits of a pickle.
        (
            "long.pkl",
            &[&b"\x80\x04B\0\0\0\x03"[..], &vec![b'x'; 0x0300_0001]].concat(),
            "exceeds the limit of 33554432",
        ),
        ("far", &b"N0".repeat(2_000_000), "more values in a pickle than the limit of"),
    ] {
        folder.write(name, bytes);
        let ran = run!["scan", folder.path()];
        assert_eq!(ran.code, Some(2), "{name}: {}", ran.stdout);
        support::assert_one_line(&ran.stderr, &[name, words]);
        fs::remove_file(folder.join(name)).unwrap();
    }
    folder.write("model.gguf", b"GGUF\x03\0\0\0\0");
    folder.write("model.onnx", b"\x08\x07\x12\x07pytorch");
    assert!(run!["scan", folder.path()].done().ends_with("2 files scanned, 2 safe\n"));
}

#[test]
fn reports_file_offset_call_and_reason() {
    let folder = Folder::new();
    let object = tensor_and(b"cposix\nsystem\nX\x04\0\0\0true\x85R0");
    let at = object.windows(7).position(|window| window == b"cposix\n").unwrap();
    let path = folder.write("evil.ckpt", torch(&object));
    let text = run!["scan", &path].no();
    let line = format!("  dangerous  archive/data.pkl byte {at}: calls posix.system('true'), which runs commands\n");
    assert!(text.contains("evil.ckpt: dangerous (torch zip, 1 pickle scanned)\n"), "{text}");
    assert!(text.contains(&line), "{text}");
    let finding = &run!["scan", &path, "--json"].json_of_no()["files"][0]["findings"][0];
    assert_eq!(finding["name"], "posix.system");
    assert_eq!((&finding["usage"], &finding["level"]), (&"calls".into(), &"dangerous".into()));
    assert_eq!((finding["offset"].as_u64(), finding["count"].as_u64()), (Some(at as u64), Some(1)));
}

#[test]
fn names_containers_as_inspect_does() {
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors"] {
        let container = |command: &str| {
            let document: serde_json::Value =
                serde_json::from_str(&run![command, fixture(name), "--json"].stdout).unwrap();
            document["files"][0]["container"].clone()
        };
        assert_eq!(container("scan"), container("inspect"), "{name}");
    }
    let folder = Folder::new();
    let header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n";
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    let array = folder.write("a.npy", [b"\x93NUMPY\x01\0", &length[..], header, b"\x80\x02]N\x85a."].concat());
    let ran = run!["scan", array, "--json"];
    assert!(ran.stdout.contains("\"container\": \"numpy-array\""), "{}", ran.stdout);
}
