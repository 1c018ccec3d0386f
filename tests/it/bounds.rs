//! Memory, threads and arguments that run out or are hostile: the program ends with a message.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::hostile::{raw_zip, record};
use crate::support::{Folder, PROGRAM, Ran, expected, fixture, read};

/// Runs the program under limits of the shell.
fn limited(limits: &str, arguments: &[&Path]) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"ulimit -c 0; {limits}; exec "$0" "$@""#), PROGRAM]).args(arguments);
    command.env("RUST_BACKTRACE", "1").output().unwrap().into()
}

/// A torch file with one tensor of bytes.
fn torch(content: &[u8], is_deflated: bool, dims: [u32; 2], strides: [u32; 2]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pair = |pair: [u32; 2]| [&b"J"[..], &pair[0].to_le_bytes(), b"J", &pair[1].to_le_bytes(), b"\x86"].concat();
    let pickle = [
        &b"\x80\x02}"[..],
        &text("weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nByteStorage\n",
        &text("0"),
        &text("cpu"),
        b"J",
        &(content.len() as u32).to_le_bytes(),
        b"tQK\0",
        &pair(dims),
        &pair(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ];
    let data = record("archive/data/0", content);
    let data = if is_deflated { data.deflated() } else { data };
    raw_zip(b"", &[record("archive/data.pkl", &pickle.concat()), data, record("archive/version", b"3\n")])
}

#[test]
fn bounds_the_memory_of_deflated_and_transposed_tensors() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..192_u32 << 20).map(|index| (index >> 12) as u8).collect();
    let (rows, columns) = (16384, 12288);
    for (is_deflated, strides) in [(true, [columns, 1]), (false, [1, rows]), (true, [1, rows])] {
        let file = folder.write("large.ckpt", torch(&content, is_deflated, [rows, columns], strides));
        let output = folder.join("out.safetensors");
        // The data of the process in kilobytes: less than the tensor has.
        let limits = "ulimit -d 160000";
        let hashed = limited(limits, &[Path::new("hash"), &file, Path::new("--jobs"), Path::new("4")]);
        assert_eq!((hashed.code, &*hashed.stderr), (Some(0), ""), "{strides:?}");
        let convert = [Path::new("convert"), &file, Path::new("-o"), &output, Path::new("--force")];
        let converted = limited(limits, &convert);
        assert_eq!((converted.code, &*converted.stderr), (Some(0), ""), "{strides:?}");
        // What was gathered within the limit is what the definition of strides says.
        let written = fs::read(&output).unwrap();
        let elements = &written[written.len() - content.len()..];
        for at in (0..content.len()).step_by(99_991) {
            let (row, column) = (at / columns as usize, at % columns as usize);
            let from = row * strides[0] as usize + column * strides[1] as usize;
            assert_eq!(elements[at], content[from], "{strides:?} at {row}, {column}");
        }
    }
}

#[test]
fn ends_with_a_message_when_memory_runs_out() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let base = fixture("tiny-sd1.ckpt");
    let convert = [Path::new("convert"), &base, Path::new("-o"), &output];
    for arguments in [&[Path::new("hash"), &base][..], &convert] {
        limited("ulimit -d 3000", arguments).refused(&["out of memory: cannot allocate", "bytes"]);
    }
    assert!(folder.names().is_empty());
}

#[test]
fn works_without_further_threads() {
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let base = folder.copy_fixture("views.ckpt", "views.ckpt");
    let output = folder.join("out.safetensors");
    let is_root = fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    let run = |arguments: &[&Path]| {
        let mut command = Command::new("bash");
        // Root may start any number of processes.
        if is_root {
            command.uid(65534).gid(65534);
        }
        command.args(["-c", r#"ulimit -u 1; exec "$0" "$@""#, PROGRAM]).args(arguments).output().unwrap()
    };
    if !run(&[Path::new("--version")]).status.success() {
        eprintln!("skipped: needs bash, and the right to run the program as another user");
        return;
    }
    let eight = [Path::new("--jobs"), Path::new("8")];
    for arguments in [
        &[Path::new("hash"), &base, eight[0], eight[1]][..],
        &[Path::new("diff"), &base, &base, eight[0], eight[1]],
        &[Path::new("convert"), &base, Path::new("-o"), &output, eight[0], eight[1]],
    ] {
        Ran::from(run(arguments)).done();
    }
    assert_eq!(read(&output), expected("views.ckpt"));
}

#[test]
fn writers_that_race_for_one_file_leave_a_whole_one() {
    let folder = Folder::new();
    let base = fixture("views.ckpt");
    let output = folder.join("out.ckpt");
    for force in [false, true] {
        let children = (0..40).map(|_| {
            let mut command = Command::new(PROGRAM);
            command.arg("convert").arg(&base).arg("-o").arg(&output).args(["-q", "--jobs", "2"]);
            command.args(force.then_some("--force")).stderr(Stdio::piped()).spawn().unwrap()
        });
        let children: Vec<_> = children.collect();
        let mut done = 0;
        for child in children {
            let ran = Ran::from(child.wait_with_output().unwrap());
            match ran.code {
                Some(0) => done += 1,
                _ => ran.refused(&["out.ckpt", "already exists"]),
            }
        }
        assert_eq!(done, if force { 40 } else { 1 });
        assert_eq!(read(&output), expected("views.ckpt"));
        assert_eq!(folder.names(), ["out.ckpt"]);
    }
}

#[test]
fn escapes_control_characters_of_arguments() {
    for arguments in [["convert", "--\u{1b}[31mred"], ["\u{1b}]0;title\u{7}", "x"], ["hash", "--jobs=\u{9b}1\r"]] {
        let ran = Ran::from(Command::new(PROGRAM).args(arguments).output().unwrap());
        assert_eq!(ran.code, Some(2));
        let unsafe_character = ran.stderr.chars().find(|it| it.is_control() && *it != '\n');
        assert_eq!(unsafe_character, None, "{:?}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
}
