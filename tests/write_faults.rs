//! Writing that fails or is stopped half-way: the destination is the old file or the whole new one.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/mutate.rs"]
mod mutate;
#[macro_use]
mod support;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mutate::Random;
use support::{Folder, PROGRAM, Ran, assert_one_line, expected, fixture, read, save, tensor};
use trinart_ckpt::format;
use trinart_ckpt::tensor::Dtype;

const SIGINT: &str = "INT";
const SIGTERM: &str = "TERM";

fn arguments(list: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    list.iter().map(|argument| argument.as_ref().to_owned()).collect()
}

#[test]
fn a_folder_that_may_not_be_written_is_an_error() {
    let folder = Folder::new();
    let input = folder.take("views.ckpt", "in.ckpt");
    let locked = folder.join("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("existing.ckpt"), "old").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    // The superuser may write anywhere, so it asks as nobody.
    let as_nobody = |arguments: &[OsString]| {
        let mut command = Command::new(PROGRAM);
        if is_root {
            command.uid(65534).gid(65534);
        }
        command.args(arguments).output()
    };
    if !as_nobody(&arguments(&[&"inspect", &input])).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: cannot run the program as another user than root");
        return;
    }
    for name in ["new.ckpt", "existing.ckpt"] {
        let output = locked.join(name);
        let ran = as_nobody(&arguments(&[&"convert", &input, &"-o", &output, &"--force"])).unwrap();
        Ran::from(ran).refused(&[name, "Permission denied"]);
    }
    assert_eq!(fs::read(locked.join("existing.ckpt")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&locked).unwrap().count(), 1);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_size_limit_is_an_error_and_leaves_the_old_file() {
    let folder = Folder::new();
    let output = folder.write("out.ckpt", "old");
    for extension in ["ckpt", "safetensors"] {
        let output = if extension == "ckpt" { output.clone() } else { folder.join("new.safetensors") };
        let before = folder.snapshot();
        // In blocks of 512 bytes; the output has a megabyte.
        let limited = r#"ulimit -c 0; ulimit -f 200; exec "$0" "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", limited, PROGRAM, "convert"]).arg(fixture("tiny-sd1.ckpt"));
        let ran = command.arg("-o").arg(&output).arg("--force").output().unwrap();
        assert_eq!(ran.status.signal(), None, "ended by a signal");
        Ran::from(ran).refused(&[output.file_name().unwrap().to_str().unwrap()]);
        assert_eq!(folder.snapshot(), before);
    }
}

/// A file system of this size, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn no_space_left_is_an_error_and_leaves_the_old_file() {
    let folder = Folder::new();
    let Some(small) = Small::mount(folder.join("small"), "600k") else {
        eprintln!("skipped: this user may not mount a small file system");
        return;
    };
    let output = small.0.join("out.ckpt");
    fs::write(&output, "old").unwrap();
    let base = fixture("tiny-sd1.ckpt");
    run!["convert", &base, "-o", &output, "--force"].refused(&["out.ckpt: ", "No space left"]);
    run!["convert", &base, "-o", small.0.join("new.safetensors")].refused(&["new.safetensors: ", "No space left"]);
    run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &output, "--force"].refused(&["No space left"]);
    assert_eq!(fs::read(&output).unwrap(), b"old");
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 1);
    // What fits is written.
    run!["convert", fixture("views.ckpt"), "-o", &output, "--force"].done();
    assert_eq!(read(&output), expected("views.ckpt"));
}

/// A checkpoint of 200 MB without an autoencoder, and the merge of one into it over an old file.
struct Long {
    folder: Folder,
    base: PathBuf,
    output: PathBuf,
    /// What the whole new file is.
    reference: Vec<u8>,
}

impl Long {
    fn new() -> Self {
        let folder = Folder::new();
        let base = folder.join("base.safetensors");
        let bytes: Vec<u8> = (0..1_u32 << 20).flat_map(|index| (index as f32).to_le_bytes()).collect();
        let block = tensor(Dtype::F32, &[1024, 1024], bytes);
        let key = |index: usize| format!("model.diffusion_model.middle_block.{index}.weight");
        save(&base, (0..50).map(|index| (key(index), block.clone())));
        assert!(base.metadata().unwrap().len() > 200_000_000);
        let output = folder.join("out.ckpt");
        let long = Long { folder, base, output, reference: Vec::new() };
        assert!(long.spawn().wait().unwrap().success());
        let reference = fs::read(&long.output).unwrap();
        assert!(reference.len() > 200_000_000);
        Long { reference, ..long }
    }

    fn spawn(&self) -> Child {
        self.spawn_of(&self.base)
    }

    fn spawn_of(&self, base: &Path) -> Child {
        let mut command = Command::new(PROGRAM);
        command.arg("merge-vae").arg(base).arg("--vae").arg(fixture("tiny-vae.ckpt"));
        command.arg("-o").arg(&self.output).arg("--force");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn scratch(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_str().unwrap().ends_with("partial")).collect()
    }

    /// Starts a merge over an old file and returns once it writes, or is done already.
    fn begin(&self) -> Child {
        self.begin_of(&self.base)
    }

    fn begin_of(&self, base: &Path) -> Child {
        fs::write(&self.output, "old").unwrap();
        let before = self.scratch();
        let mut child = self.spawn_of(base);
        let begin = Instant::now();
        while self.scratch().iter().all(|path| before.contains(path)) && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "no scratch file appears");
            sleep(Duration::from_millis(1));
        }
        child
    }

    /// Whether the output is the new file; it must be that, whole, or the old one.
    #[track_caller]
    fn is_new(&self) -> bool {
        let found = fs::read(&self.output).unwrap();
        assert!(found == b"old" || found == self.reference, "the output is neither the old file nor the new one");
        found != b"old"
    }
}

/// Moments after the writer began, in milliseconds; a debug build needs about a second. `TRINART_KILLS=200` asks for as
/// many, at random.
fn moments() -> Vec<Duration> {
    let Some(count) = env::var_os("TRINART_KILLS") else {
        return [0, 30, 100, 250, 500, 900].map(Duration::from_millis).to_vec();
    };
    let count: u64 = count.to_str().unwrap().parse().unwrap();
    let mut random = Random(count);
    // Half of them early, where the file is begun; the others up to where it is done.
    let mut moment = |index| random.below(if index % 2 == 0 { 60_000 } else { 700_000 }) as u64;
    (0..count).map(|index| Duration::from_micros(moment(index))).collect()
}

fn send(child: &Child, signal: &str) {
    // It may have ended by itself; then nobody is there to hear it.
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).output().unwrap();
}

#[test]
fn an_interrupt_leaves_the_old_file_or_the_whole_new_one_and_no_scratch_file() {
    let long = Long::new();
    let mut stopped = 0;
    let moments = moments();
    for (index, &moment) in moments.iter().enumerate() {
        let child = long.begin();
        sleep(moment);
        send(&child, if index % 2 == 0 { SIGINT } else { SIGTERM });
        let output = child.wait_with_output().unwrap();
        assert_eq!(long.scratch(), [] as [PathBuf; 0], "after {moment:?}");
        if long.is_new() {
            assert_eq!(output.status.code(), Some(0), "after {moment:?}");
        } else {
            stopped += 1;
            assert_eq!(output.status.code(), Some(2), "after {moment:?}");
            assert!(output.stdout.is_empty());
            assert_one_line(std::str::from_utf8(&output.stderr).unwrap(), &["interrupted"]);
        }
    }
    assert!(stopped > 0, "every merge was done before its interrupt");
    eprintln!("{} interrupts, {stopped} of them in time", moments.len());
}

#[test]
fn a_killed_merge_leaves_the_old_file_or_the_whole_new_one_and_the_next_one_cleans_up() {
    let long = Long::new();
    let mut left = 0;
    let moments = moments();
    for &moment in &moments {
        let mut child = long.begin();
        sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        let is_new = long.is_new();
        // What was left by the kill before this one is gone.
        assert!(long.scratch().len() <= 1, "{:?}", long.scratch());
        left += usize::from(!is_new && long.scratch().len() == 1);
    }
    assert!(left > 0, "every merge was done before it was killed");
    eprintln!("{} kills, {left} of them in time", moments.len());
    assert!(long.begin().wait_with_output().unwrap().status.success());
    assert!(long.is_new());
    assert_eq!(long.scratch(), [] as [PathBuf; 0]);
}

type Change = fn(&fs::File);

/// What happens to an input while it is read: it loses its end, or all of it, or changes where it was read already.
const CHANGES: [(&str, Change); 3] = [
    ("cut.safetensors", |file| file.set_len(150_000_000).unwrap()),
    ("emptied.safetensors", |file| file.set_len(0).unwrap()),
    ("changed.safetensors", |file| file.write_all_at(b"changed", 200_000_000).unwrap()),
];

#[test]
fn an_input_that_is_cut_or_changed_while_it_is_read_is_an_error_and_leaves_the_old_file() {
    let long = Long::new();
    for (name, change) in CHANGES {
        let mut stopped = 0;
        for wait in [0, 20, 100] {
            let base = long.folder.join(name);
            fs::copy(&long.base, &base).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&base).unwrap();
            let child = long.begin_of(&base);
            sleep(Duration::from_millis(wait));
            change(&file);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), None, "{name}: ended by a signal");
            assert_eq!(long.scratch(), [] as [PathBuf; 0], "{name}");
            if long.is_new() {
                assert_eq!(output.status.code(), Some(0), "{name}");
            } else {
                stopped += 1;
                let ran = Ran::from(output);
                ran.refused(&[name]);
                let says = |word| ran.stderr.contains(word);
                assert!(says("cut short") || says("changed while it was being read"), "{}", ran.stderr);
            }
        }
        assert!(stopped > 0, "{name}: every merge was done before its input changed");
    }
}

/// A tensor of strides, whose elements are read all over its storage.
#[test]
fn a_strided_tensor_that_is_cut_while_it_is_read_is_an_error() {
    let folder = Folder::new();
    let path = folder.take("views.ckpt", "views.ckpt");
    let contents = format::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
    for (key, tensor) in contents.state_dict.iter().filter(|(_, tensor)| tensor.bytes() > 0) {
        let error = tensor.to_bytes().expect_err(key);
        assert!(error.to_string().contains("cut short"), "{key}: {error}");
    }
}

#[test]
fn a_destination_that_is_a_link_or_on_another_disk_is_written_where_it_is() {
    let folder = Folder::new();
    let base = fixture("views.ckpt");
    let target = folder.write("target.ckpt", "old");
    let link = folder.join("link.ckpt");
    symlink("target.ckpt", &link).unwrap();
    run!["convert", &base, "-o", &link].refused(&["link.ckpt", "--force"]);
    assert_eq!(fs::read(&target).unwrap(), b"old");
    run!["convert", &base, "-o", &link, "--force"].done();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&target), expected("views.ckpt"));
    let nowhere = folder.join("nowhere.ckpt");
    symlink("missing/file.ckpt", &nowhere).unwrap();
    for force in [&[][..], &["--force"]] {
        let mut arguments = arguments(&[&"convert", &base, &"-o", &nowhere]);
        arguments.extend(force.iter().map(OsString::from));
        support::run(&arguments).refused(&["nowhere.ckpt", "does not exist"]);
    }
    for device in ["/dev/null", "/dev/full"] {
        symlink(device, folder.join("device.ckpt")).unwrap();
        run!["convert", &base, "-o", folder.join("device.ckpt"), "--force"].refused(&["not a regular file"]);
        fs::remove_file(folder.join("device.ckpt")).unwrap();
    }
    assert_eq!(folder.names(), ["link.ckpt", "nowhere.ckpt", "target.ckpt"]);
    // A scratch file beside the link would have to be copied to where the link leads; beside the target it is renamed.
    let Some(small) = Small::mount(folder.join("small"), "4m") else {
        eprintln!("skipped in part: this user may not mount a small file system");
        return;
    };
    let far = small.0.join("far.ckpt");
    let away = folder.join("away.ckpt");
    fs::write(&far, "old").unwrap();
    symlink(&far, &away).unwrap();
    for output in [&away, &small.0.join("new.ckpt")] {
        run!["convert", &base, "-o", output, "--force"].done();
        assert_eq!(read(output), expected("views.ckpt"));
    }
    assert!(fs::symlink_metadata(&away).unwrap().is_symlink());
    assert_eq!(read(&far), expected("views.ckpt"));
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 2);
}

/// Runs the program with a standard output that nobody reads.
fn run_unheard(arguments: &[OsString]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_standard_output_closed_early_is_no_error() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.ckpt");
    let output = folder.join("out.safetensors");
    let inspect = arguments(&[&"inspect", &base, &"--keys", &"--json"]);
    assert_eq!(run_unheard(&inspect), (Some(0), String::new()));
    let convert = arguments(&[&"convert", &base, &"-o", &output, &"--json"]);
    assert_eq!(run_unheard(&convert), (Some(0), String::new()));
    assert_eq!(read(&output), expected("tiny-sd1.ckpt"));
    // One that can hold no more is one: nobody was told.
    let full = Path::new("/dev/full");
    for (arguments, code) in
        [(&inspect, 2), (&arguments(&[&"scan", &base]), 2), (&arguments(&[&"scan", &fixture("hostile")]), 1)]
    {
        if !full.exists() {
            break;
        }
        let mut command = Command::new(PROGRAM);
        let output = command.args(arguments).stdout(fs::File::create(full).unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_one_line(std::str::from_utf8(&output.stderr).unwrap(), &["cannot print the result", "No space left"]);
    }
    let script = r#"{ "$0" "$@"; echo "$?" >&2; } | head -c0"#;
    let mut piped = Command::new("sh");
    let piped = piped.args(["-c", script, PROGRAM, "inspect", "--keys"]).arg(&base).output().unwrap();
    assert_eq!(String::from_utf8(piped.stderr).unwrap(), "0\n");
}
