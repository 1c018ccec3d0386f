//! Damaged and forged files, and files that are not checkpoints: the program prints one error line, exits with code 2,
//! writes no output and does not panic.

use std::fs::{self, File};
use std::path::Path;

use crate::support::{self, Folder, assert_one_line, f32s, fixture, pickle_tensor, read, save, zip};
use trinart_ckpt::formats::pickle::Encoder;

/// Asserts that every command rejects the file in one line that contains these words and leaves the folder unchanged.
#[track_caller]
fn assert_refused(folder: &Folder, bad: &Path, words: &[&str]) {
    let existing = folder.write("existing.safetensors", "precious");
    let new = folder.join("new.ckpt");
    let before = folder.snapshot();
    let name = bad.file_name().unwrap().to_str().unwrap();
    let words: Vec<&str> = [name].iter().chain(words).copied().collect();
    let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.vae.pt"));
    run!["inspect", bad].refused(&words);
    run!["convert", bad, "-o", &new].refused(&words);
    run!["convert", bad, "-o", &existing, "--force"].refused(&words);
    run!["convert", bad, "-o", &new, "--dry-run"].refused(&words);
    run!["merge-vae", bad, "--vae", &vae, "-o", &existing, "--force"].refused(&words);
    run!["merge-vae", &base, "--vae", bad, "-o", &new].refused(&words);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn names_what_a_file_is_instead_of_a_checkpoint() {
    let folder = Folder::new();
    let cases: &[(&str, &[u8], &str)] = &[
        ("magic.ckpt", b"\x13\x37 not a checkpoint", "begins with 13 37"),
        ("page.ckpt", b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        ("empty.ckpt", b"", "empty"),
        ("zeros.safetensors", &[0; 4096], "zeros"),
        ("bare.pt", b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", "bare pickle"),
        ("name\nwith\x1b[31mcontrols.ckpt", b"", "empty"),
    ];
    for (name, bytes, word) in cases {
        if cfg!(windows) && name.contains('\n') {
            // No file can have this name.
            continue;
        }
        let bad = folder.write(name, bytes);
        if name.contains('\n') {
            run!["convert", &bad, "-o", folder.join("out.ckpt")].refused(&[r"name\nwith\u{1b}[31mcontrols", word]);
        } else {
            assert_refused(&folder, &bad, &[word]);
        }
    }
}

#[cfg(unix)]
#[test]
fn rejects_anything_but_regular_files() {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    let folder = Folder::new();
    assert_refused(&folder, &folder.join("missing.ckpt"), &["No such file"]);
    fs::create_dir(folder.join("folder.ckpt")).unwrap();
    assert_refused(&folder, &folder.join("folder.ckpt"), &["folder"]);
    for device in ["/dev/null", "/dev/zero", "/dev/tty"].map(Path::new).into_iter().filter(|device| device.exists()) {
        let name = device.to_str().unwrap();
        for command in ["inspect", "scan", "hash"] {
            assert_one_line(&run![command, device].stderr, &[name, "not a regular file"]);
        }
        run!["convert", device, "-o", folder.join("out.ckpt")].refused(&[name, "not a regular file"]);
        run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", device, "-o", folder.join("out.ckpt")].refused(&[name]);
        symlink(device, folder.join("link.ckpt")).unwrap();
        assert_refused(&folder, &folder.join("link.ckpt"), &["not a regular file"]);
        fs::remove_file(folder.join("link.ckpt")).unwrap();
    }
    let fifo = folder.join("fifo.ckpt");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Opening a FIFO for reading blocks until a writer opens it.
    let mut command = Command::new(support::PROGRAM);
    command.arg("convert").arg(&fifo).arg("-o").arg(folder.join("out.ckpt"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("still waiting for a FIFO");
        }
        sleep(Duration::from_millis(10));
    }
    support::Ran::from(child.wait_with_output().unwrap()).refused(&["fifo.ckpt: "]);
    assert!(!folder.join("out.ckpt").exists());
}

const FLOATS: (&str, &str) = ("torch", "FloatStorage");

/// The pickle of a state dict with these keys, each a tensor of four elements of this storage class in record 0.
fn pickle(class: (&'static str, &'static str), keys: &[&str]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let entry = |encoder: &mut Encoder, key: &&str| {
        encoder.str(key)?;
        pickle_tensor(encoder, class, "0", 4);
        Ok(())
    };
    encoder.dict(keys.iter(), entry).unwrap();
    encoder.finish()
}

#[test]
fn rejects_a_zip_whose_records_contradict_its_pickle() {
    let folder = Folder::new();
    let good = pickle(FLOATS, &["weight"]);
    let path = folder.join("good.ckpt");
    zip(&path, &[("data.pkl", &good), ("data/0", &[0; 16])]);
    assert_eq!(read(&path).len(), 1);
    let twice = pickle(FLOATS, &["weight", "weight"]);
    let odd = pickle(("torch", "MysteryStorage"), &["weight"]);
    type Records<'a> = &'a [(&'a str, &'a [u8])];
    let cases: &[(&str, Records<'_>, &[&str])] = &[
        ("short.ckpt", &[("data.pkl", &good), ("data/0", &[0; 15])], &["data/0"]),
        ("missing.ckpt", &[("data.pkl", &good)], &["data/0"]),
        ("twice.ckpt", &[("data.pkl", &twice), ("data/0", &[0; 16])], &["weight", "twice"]),
        ("odd.ckpt", &[("data.pkl", &odd), ("data/0", &[0; 16])], &["torch.MysteryStorage"]),
        ("cut.ckpt", &[("data.pkl", &good[..40]), ("data/0", &[0; 16])], &["data.pkl"]),
        ("headless.ckpt", &[("data/0", &[0; 16])], &["data.pkl"]),
    ];
    for (name, records, words) in cases {
        let bad = folder.join(name);
        zip(&bad, records);
        assert_refused(&folder, &bad, words);
    }
}

/// Writes a safetensors file with this header, followed by `data` bytes.
fn safetensors(folder: &Folder, name: &str, header: &str, data: usize) -> std::path::PathBuf {
    let length = (header.len() as u64).to_le_bytes();
    folder.write(name, [&length[..], header.as_bytes(), &vec![0; data]].concat())
}

#[test]
fn rejects_an_inconsistent_safetensors_header() {
    let folder = Folder::new();
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let good = entry("F32", "[2]", 0, 8);
    let path = safetensors(&folder, "good.safetensors", &format!(r#"{{"a":{good}}}"#), 8);
    assert_eq!(read(&path).len(), 1);
    let cases = [
        ("twice", format!(r#"{{"a":{good},"a":{good}}}"#), 8, "a occurs twice"),
        ("dtype", format!(r#"{{"a":{}}}"#, entry("F13", "[2]", 0, 8)), 8, "F13"),
        ("shape", format!(r#"{{"a":{}}}"#, entry("F32", "[3]", 0, 8)), 8, "tensor a"),
        ("huge", format!(r#"{{"a":{}}}"#, entry("F32", "[4294967296,4294967296]", 0, 8)), 8, "a"),
        ("reversed", format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 0)), 8, "tensor a"),
        ("beyond", format!(r#"{{"a":{good}}}"#), 7, "cut short"),
        ("hole", format!(r#"{{"a":{good},"b":{}}}"#, entry("F32", "[2]", 16, 24)), 24, "tensor b"),
        ("overlap", format!(r#"{{"a":{good},"b":{}}}"#, entry("F32", "[2]", 4, 12)), 12, "tensor b"),
        ("json", r#"{"a":{"dtype":"F32""#.to_owned(), 8, "header"),
        ("deep", format!(r#"{{"a":{}"#, "[".repeat(100_000)), 8, "byte "),
        ("deep-object", r#"{"a":"#.repeat(100_000), 8, "byte "),
        ("list", "[]".to_owned(), 0, "begins with"),
        ("meta-twice", format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},"a":{good}}}"#), 8, "k occurs twice"),
        (
            "metas-twice",
            format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},"a":{good}}}"#),
            8,
            "__metadata__ occurs twice",
        ),
        ("meta-number", format!(r#"{{"__metadata__":{{"k":1}},"a":{good}}}"#), 8, "expected a string"),
        ("escaped-twice", format!(r#"{{"a":{good},"\u0061":{good}}}"#), 8, "a occurs twice"),
        ("other-dtype-twice", format!(r#"{{"a":{good},"a":{}}}"#, entry("I32", "[2]", 0, 8)), 8, "a occurs twice"),
        (
            "field-twice",
            r#"{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#.to_owned(),
            8,
            "dtype",
        ),
        (
            "overflow",
            format!(r#"{{"a":{}}}"#, entry("F32", "[18446744073709551615,18446744073709551615]", 0, 8)),
            8,
            "tensor a",
        ),
        ("wraps", format!(r#"{{"a":{}}}"#, entry("F32", "[4611686018427387905]", 0, 4)), 8, "tensor a"),
        ("negative", format!(r#"{{"a":{}}}"#, entry("F32", "[-2]", 0, 8)), 8, "tensor a"),
        ("fraction", format!(r#"{{"a":{}}}"#, entry("F32", "[2.0]", 0, 8)), 8, "tensor a"),
        (
            "offsets-beyond",
            format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 18446744073709551608, 18446744073709551615)),
            8,
            "tensor a",
        ),
        ("three-offsets", format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 0, 8).replace("0,8", "0,8,8")), 8, "tensor a"),
        ("starts-late", format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 16)), 16, "hole"),
        ("trailing-json", format!(r#"{{"a":{good}}}{{}}"#), 8, "header"),
        ("rank", format!(r#"{{"a":{}}}"#, entry("F32", &format!("[2{}]", ",1".repeat(64)), 0, 8)), 8, "dimensions"),
    ];
    for (name, header, data, word) in cases {
        let bad = safetensors(&folder, &format!("{name}.safetensors"), &header, data);
        assert_refused(&folder, &bad, &[word]);
    }
    // Only to repair it, and to report on it.
    let appended = safetensors(&folder, "appended.safetensors", &format!(r#"{{"a":{good}}}"#), 9);
    run!["convert", &appended, "-o", folder.join("out.ckpt")].refused(&["appended behind the tensors: 1"]);
    for (name, length, word) in [
        ("long", u64::MAX, ""),
        ("half", 1 << 63, ""),
        ("limit", 100_000_001, ""),
        ("cut", 100_000_000, "cut short"),
        ("one-more", 3, "cut short"),
        ("shorter", 1, "byte 8"),
    ] {
        let bytes = [&u64::to_le_bytes(length)[..], b"{}"].concat();
        assert_refused(&folder, &folder.write(&format!("{name}.safetensors"), bytes), &[word]);
    }
    let not_text = [&6_u64.to_le_bytes()[..], b"{\"\xff\":1"].concat();
    assert_refused(&folder, &folder.write("not-text.safetensors", not_text), &["unicode", "byte 10"]);
}

/// `{"weight": …, "note": "text", "payload": posix.system(command)}`.
fn evil_pickle(command: &str) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let entry = |encoder: &mut Encoder, key: &str| {
        encoder.str(key)?;
        match key {
            "weight" => pickle_tensor(encoder, FLOATS, "0", 4),
            "note" => encoder.str("text")?,
            _ => {
                encoder.global("posix", "system");
                encoder.tuple(1, |encoder| encoder.str(command))?;
                encoder.reduce();
            }
        }
        Ok(())
    };
    encoder.dict(["weight", "note", "payload"].into_iter(), entry).unwrap();
    encoder.finish()
}

/// A legacy torch file (before 1.6) with this object: magic number, version, system, object, keys, storages.
fn evil_legacy(object: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(b"\x80\x02}q\x00X\x0d\x00\x00\x00little_endianq\x01\x88s.");
    file.extend(object);
    file.extend(b"\x80\x02]q\x00X\x01\x00\x00\x000q\x01a.");
    file.extend(4_u64.to_le_bytes());
    file.extend([1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    file
}

#[test]
fn rejects_a_pickle_that_calls_the_system_and_names_the_call() {
    let folder = Folder::new();
    let object = evil_pickle(&format!("touch {}", folder.join("owned").display()));
    let call = object.windows(14).position(|window| window == b"cposix\nsystem\n").unwrap();
    let values = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
    let (archive, legacy) = (folder.join("evil.ckpt"), folder.write("evil-legacy.pt", evil_legacy(&object)));
    zip(&archive, &[("data.pkl", &object), ("data/0", &values)]);
    let clean = folder.join("clean.safetensors");
    save(&clean, [("weight".into(), f32s(&[1.0, 2.0, 3.0, 4.0]))]);
    for evil in [&archive, &legacy] {
        let name = evil.file_name().unwrap().to_str().unwrap();
        let place = format!("byte {call}: ");
        let words = [name, "calls posix.system", &place, "--sanitize"];
        let before = folder.snapshot();
        let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.vae.pt"));
        run!["convert", evil, "-o", folder.join("out.ckpt")].refused(&words);
        run!["convert", evil, "-o", &clean, "--force"].refused(&words);
        run!["merge-vae", evil, "--vae", &vae, "-o", folder.join("out.ckpt")].refused(&words);
        run!["merge-vae", &base, "--vae", evil, "-o", folder.join("out.ckpt")].refused(&words);
        assert!(run!["inspect", evil].done().contains("posix.system"));
        assert_eq!(folder.snapshot(), before);
        for extension in ["ckpt", "safetensors"] {
            let output = folder.join(&format!("{name}.{extension}"));
            let report = run!["convert", evil, "-o", &output, "--sanitize", "--json"].json();
            assert_eq!(read(&output), read(&clean));
            assert!(report["left_out"].to_string().contains("posix.system"), "{}", report["left_out"]);
            let bytes = fs::read(&output).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"system" || window == b"touch "));
            assert!(!run!["inspect", &output].done().contains("posix"));
            assert!(crate::support::open(&output).unwrap().metadata().is_empty());
        }
    }
    assert!(!folder.join("owned").exists());
}

/// PyTorch accepts only tuples as persistent ids. Other readers might load any object that an id names.
#[test]
fn rejects_a_persistent_id_that_is_not_a_storage() {
    let folder = Folder::new();
    let good = pickle(FLOATS, &["weight"]);
    let whole = good.strip_suffix(b".").unwrap();
    for (name, id) in [("text.ckpt", &b"Pposix.system\n"[..]), ("binary.ckpt", b"X\x06\0\0\0systemQ")] {
        let bad = folder.join(name);
        let object = [whole, b"X\x01\0\0\0x", id, b"s."].concat();
        zip(&bad, &[("data.pkl", &object), ("data/0", &[0; 16])]);
        run!["convert", &bad, "-o", folder.join("out.ckpt")].refused(&[name, "persistent id", "--sanitize"]);
        assert_eq!(run!["scan", &bad].code, Some(1));
        run!["convert", &bad, "-o", folder.join(&format!("clean-{name}")), "--sanitize"].done();
    }
    assert!(!folder.join("out.ckpt").exists());
}

/// Some readers use the record count of the end record, others its directory size or the first directory entry.
#[test]
fn rejects_a_zip_with_an_inconsistent_end_record() {
    let folder = Folder::new();
    let path = folder.join("good.ckpt");
    zip(&path, &[("data.pkl", &pickle(FLOATS, &["weight"])), ("data/0", &[0; 16]), ("more", b"")]);
    let good = fs::read(&path).unwrap();
    let end = good.len() - 22;
    assert!(good[end..].starts_with(b"PK\x05\x06") && read(&path).len() == 1);
    let count = u16::from_le_bytes([good[end + 10], good[end + 11]]);
    let size = u32::from_le_bytes(good[end + 12..end + 16].try_into().unwrap());
    for (name, at, bytes) in [
        ("count.ckpt", end + 8, [count - 1, count - 1].map(u16::to_le_bytes).concat()),
        ("size.ckpt", end + 12, (size - 1).to_le_bytes().to_vec()),
        ("size0.ckpt", end + 12, vec![0; 4]),
        // Deflated according to the record's header, stored according to the directory.
        ("method.ckpt", good.windows(4).rposition(|window| window == b"PK\x03\x04").unwrap() + 8, vec![8, 0]),
    ] {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        assert_refused(&folder, &folder.write(name, bad), &["directory"]);
    }
    let begin = u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap());
    let hidden = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut moved = [hidden, &good[..]].concat();
    let shift = hidden.len() as u32;
    moved[end + hidden.len() + 16..][..4].copy_from_slice(&(begin + shift).to_le_bytes());
    let mut entry = begin as usize + hidden.len();
    while moved[entry..].starts_with(b"PK\x01\x02") {
        let header = u32::from_le_bytes(moved[entry + 42..entry + 46].try_into().unwrap());
        moved[entry + 42..entry + 46].copy_from_slice(&(header + shift).to_le_bytes());
        let lengths =
            [28, 30, 32].map(|at| usize::from(u16::from_le_bytes([moved[entry + at], moved[entry + at + 1]])));
        entry += 46 + lengths.iter().sum::<usize>();
    }
    assert_refused(&folder, &folder.write("hidden.ckpt", moved), &["does not list"]);
}

#[test]
fn detects_a_damaged_tensor_while_copying() {
    let folder = Folder::new();
    let bad = folder.join("damaged.ckpt");
    zip(&bad, &[("data.pkl", &pickle(FLOATS, &["weight"])), ("data/0", b"0123456789abcdef")]);
    let bytes = fs::read(&bad).unwrap();
    let at = bytes.windows(16).position(|window| window == b"0123456789abcdef").unwrap();
    support::overwrite(&File::options().write(true).open(&bad).unwrap(), at as u64, b"X");
    let existing = folder.write("existing.safetensors", "precious");
    let before = folder.snapshot();
    for options in [&[][..], &["--dtype", "bf16"], &["--no-verify"]] {
        let mut arguments: Vec<std::ffi::OsString> = vec!["convert".into(), (&bad).into(), "--force".into()];
        arguments.extend(["-o".into(), (&existing).into()]);
        arguments.extend(options.iter().map(Into::into));
        let ran = support::run(&arguments);
        assert_eq!(ran.code, Some(2));
        assert_one_line(&ran.stderr, &["damaged.ckpt: ", "tensor weight", "checksum"]);
        assert_eq!(folder.snapshot(), before);
    }
}

/// Errors, reports and JSON of every command escape control characters and direction marks from the file.
#[test]
fn escapes_text_from_files_before_printing() {
    const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\u{202e}\u{200b}x";
    let folder = Folder::new();
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut encoder = Encoder::new();
    let entry = |encoder: &mut Encoder, key: &&str| {
        encoder.str(key)?;
        pickle_tensor(encoder, FLOATS, "0", 4);
        Ok(())
    };
    encoder.dict([HOSTILE].iter(), entry).unwrap();
    let mut tensors = encoder.finish();
    tensors.pop();
    // Next to the tensor: metadata, an opaque value and a class with such names, and a call of that class.
    let name = HOSTILE.replace('\n', " ");
    let parts = [
        text(&format!("meta{HOSTILE}")),
        text(HOSTILE),
        b"s".to_vec(),
        text(&format!("opaque{HOSTILE}")),
        format!("cfoo{name}\nBar{name}\n").into_bytes(),
        text(HOSTILE),
        b"\x85Rs.".to_vec(),
    ];
    let values = [0; 16];
    let whole = [tensors, parts.concat()].concat();
    let (torch, other) = (folder.join("hostile.ckpt"), folder.join("other.ckpt"));
    zip(&torch, &[("data.pkl", &whole), ("data/0", &values)]);
    zip(&other, &[("data.pkl", &pickle(FLOATS, &["weight"])), ("data/0", &[1; 16])]);
    let key = serde_json::to_string(HOSTILE).unwrap();
    let header =
        format!(r#"{{"__metadata__":{{{key}:{key}}},{key}:{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    let tensors = safetensors(&folder, "hostile.safetensors", &header, 8);
    let broken = safetensors(&folder, "broken.safetensors", &header.replace("[0,8]", "[0,9]"), 8);
    let dtype = safetensors(&folder, "dtype.safetensors", &header.replace("F32", "F\\u001b[31m"), 8);
    let vae = fixture("tiny-vae.vae.pt");
    for file in [&torch, &tensors, &broken, &dtype] {
        for json in [&[][..], &["--json"]] {
            let out = folder.join("out.safetensors");
            let commands: [&[&std::ffi::OsStr]; 10] = [
                &["inspect".as_ref(), file.as_ref(), "--keys".as_ref()],
                &["scan".as_ref(), file.as_ref()],
                &["hash".as_ref(), file.as_ref()],
                &["diff".as_ref(), file.as_ref(), other.as_ref()],
                &["diff".as_ref(), other.as_ref(), file.as_ref()],
                &["convert".as_ref(), file.as_ref(), "-o".as_ref(), out.as_ref(), "--dry-run".as_ref()],
                &[
                    "convert".as_ref(),
                    file.as_ref(),
                    "-o".as_ref(),
                    out.as_ref(),
                    "--sanitize".as_ref(),
                    "--force".as_ref(),
                ],
                &[
                    "convert".as_ref(),
                    file.as_ref(),
                    "-o".as_ref(),
                    out.as_ref(),
                    "--component".as_ref(),
                    "vae".as_ref(),
                ],
                &["merge-vae".as_ref(), file.as_ref(), "--vae".as_ref(), vae.as_ref(), "-o".as_ref(), out.as_ref()],
                &["merge-vae".as_ref(), vae.as_ref(), "--vae".as_ref(), file.as_ref(), "-o".as_ref(), out.as_ref()],
            ];
            for command in commands {
                let mut arguments: Vec<std::ffi::OsString> = command.iter().map(Into::into).collect();
                arguments.extend(json.iter().map(Into::into));
                let ran = support::run(&arguments);
                let is_safe = |character: char| {
                    let reorders = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
                    character == '\n' || !character.is_control() && !reorders
                };
                assert!(ran.stdout.chars().all(is_safe), "{command:?}: {:?}", ran.stdout);
                assert!(ran.stderr.chars().all(is_safe), "{command:?}: {:?}", ran.stderr);
                assert!(ran.stderr.lines().count() <= 1, "{command:?}: {:?}", ran.stderr);
            }
        }
    }
}
