//! Failed and interrupted writes: the destination must be either the old file or the complete new one.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::mutate::Random;
use crate::support::{self, Folder, PROGRAM, Ran, assert_one_line, expected, fixture, read, save, tensor};
use trinart_ckpt::formats::tensor::Dtype;

fn arguments(list: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    list.iter().map(|argument| argument.as_ref().to_owned()).collect()
}

#[test]
fn rejects_a_read_only_folder() {
    let folder = Folder::new();
    let input = folder.copy_fixture("views.ckpt", "in.ckpt");
    let locked = folder.join("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("existing.ckpt"), "old").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    // Root can write anywhere, so the test runs the program as the user `nobody`.
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
fn keeps_the_old_file_at_a_file_size_limit() {
    let folder = Folder::new();
    let output = folder.write("out.ckpt", "old");
    for extension in ["ckpt", "safetensors"] {
        let output = if extension == "ckpt" { output.clone() } else { folder.join("new.safetensors") };
        let before = folder.snapshot();
        // The limit counts blocks of 512 bytes; the output has about 1 MB.
        let limited = r#"ulimit -c 0; ulimit -f 200; exec "$0" "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", limited, PROGRAM, "convert"]).arg(fixture("tiny-sd1.ckpt"));
        let ran = command.arg("-o").arg(&output).arg("--force").output().unwrap();
        assert_eq!(ran.status.signal(), None, "ended by a signal");
        Ran::from(ran).refused(&[output.file_name().unwrap().to_str().unwrap()]);
        assert_eq!(folder.snapshot(), before);
    }
}

/// A mounted file system of a given size, unmounted on drop.
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
fn keeps_the_old_file_on_a_full_disk() {
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
    // An output that fits is written.
    run!["convert", fixture("views.ckpt"), "-o", &output, "--force"].done();
    assert_eq!(read(&output), expected("views.ckpt"));
}

/// A checkpoint of 200 MB without a VAE, and a merge that replaces an old file.
struct Long {
    folder: Folder,
    base: PathBuf,
    output: PathBuf,
    /// The bytes of the complete new file.
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

    fn temporary_files(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_str().unwrap().ends_with("partial")).collect()
    }

    /// Whether a process has an open temporary file, with a name or without.
    fn is_written_by(&self, child: &Child) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", child.id())) else { return false };
        let paths = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let here = paths.filter(|path| path.starts_with(self.folder.path()));
        here.map(|path| path.to_string_lossy().into_owned())
            .any(|path| path.ends_with("(deleted)") || path.ends_with("partial"))
    }

    /// Starts a merge that replaces an old file. Returns as soon as it writes or has finished.
    fn begin(&self) -> Child {
        self.begin_of(&self.base)
    }

    fn begin_of(&self, base: &Path) -> Child {
        fs::write(&self.output, "old").unwrap();
        let mut child = self.spawn_of(base);
        let begin = Instant::now();
        while !self.is_written_by(&child) && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "no temporary file appeared");
            sleep(Duration::from_millis(1));
        }
        child
    }

    /// Whether the output is the new file. Panics if it is neither the complete new file nor the old one.
    #[track_caller]
    fn is_new(&self) -> bool {
        let found = fs::read(&self.output).unwrap();
        let is_new = found != b"old";
        if is_new && found != self.reference {
            let pairs = found.iter().zip(&self.reference);
            let at: Vec<usize> = pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
            let (count, len) = (at.len(), found.len());
            panic!(
                "neither the old file nor the new one: {len} bytes, {count} differ: {:?}..{:?}",
                at.first(),
                at.last()
            );
        }
        is_new
    }
}

/// Returns delays after the start of writing. A debug build writes for about a second. `TRINART_KILLS=200` selects 200
/// random delays.
fn moments() -> Vec<Duration> {
    let Some(count) = env::var_os("TRINART_KILLS") else {
        return [0, 30, 100, 250, 500, 900].map(Duration::from_millis).to_vec();
    };
    let count: u64 = count.to_str().unwrap().parse().unwrap();
    let mut random = Random(count);
    // Half of the delays are short, while the file is created. The others extend to the end of the write.
    let mut moment = |index| random.below(if index % 2 == 0 { 60_000 } else { 700_000 }) as u64;
    (0..count).map(|index| Duration::from_micros(moment(index))).collect()
}

fn send(child: &Child, signal: &str) {
    // The process may have ended already; then the signal fails.
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).output().unwrap();
}

#[test]
fn leaves_a_whole_file_and_no_temporary_file_after_an_interrupt() {
    let long = Long::new();
    let mut stopped = 0;
    let moments = moments();
    for (index, &moment) in moments.iter().enumerate() {
        let child = long.begin();
        sleep(moment);
        send(&child, ["INT", "TERM", "QUIT", "HUP", "USR1"][index % 5]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(long.temporary_files(), [] as [PathBuf; 0], "after {moment:?}");
        if long.is_new() {
            assert_eq!(output.status.code(), Some(0), "after {moment:?}");
        } else {
            stopped += 1;
            assert_eq!(output.status.code(), Some(2), "after {moment:?}");
            assert!(output.stdout.is_empty());
            assert_one_line(std::str::from_utf8(&output.stderr).unwrap(), &["interrupted"]);
        }
    }
    assert!(stopped > 0, "every merge finished before its interrupt");
    eprintln!("{} interrupts, {stopped} of them before the end", moments.len());
}

#[test]
fn leaves_a_whole_file_after_a_kill_and_cleans_up_in_the_next_run() {
    let long = Long::new();
    let mut left = 0;
    let moments = moments();
    for &moment in &moments {
        let mut child = long.begin();
        sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        let is_new = long.is_new();
        // Where files need names, that of the previous kill has been removed.
        assert!(long.temporary_files().len() <= 1, "{:?}", long.temporary_files());
        left += usize::from(!is_new);
    }
    assert!(left > 0, "every merge finished before it was killed");
    eprintln!("{} kills, {left} of them before the end", moments.len());
    assert!(long.begin().wait_with_output().unwrap().status.success());
    assert!(long.is_new());
    assert_eq!(long.temporary_files(), [] as [PathBuf; 0]);
}

type Change = fn(&fs::File);

/// Changes to an input while it is read: truncated, emptied, or overwritten in a part that was already read.
const CHANGES: [(&str, Change); 3] = [
    ("cut", |file| file.set_len(150_000_000).unwrap()),
    ("emptied", |file| file.set_len(0).unwrap()),
    ("changed", |file| file.write_all_at(b"changed", 200_000_000).unwrap()),
];

#[test]
fn keeps_the_old_file_if_the_input_changes_while_it_is_read() {
    let long = Long::new();
    for (name, change) in CHANGES {
        let mut stopped = 0;
        for wait in [0, 20, 100] {
            // The output names its base, so the copy has the same name.
            let base = long.folder.join(name).join(long.base.file_name().unwrap());
            fs::create_dir_all(base.parent().unwrap()).unwrap();
            fs::copy(&long.base, &base).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&base).unwrap();
            let child = long.begin_of(&base);
            sleep(Duration::from_millis(wait));
            change(&file);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), None, "{name}: ended by a signal");
            assert_eq!(long.temporary_files(), [] as [PathBuf; 0], "{name}");
            if long.is_new() {
                assert_eq!(output.status.code(), Some(0), "{name}");
            } else {
                stopped += 1;
                let ran = Ran::from(output);
                ran.refused(&[name]);
                let contains = |word| ran.stderr.contains(word);
                assert!(contains("cut short") || contains("changed while it was being read"), "{}", ran.stderr);
            }
        }
        assert!(stopped > 0, "{name}: every merge finished before its input changed");
    }
}

/// The elements of a strided tensor are distributed over its storage.
#[test]
fn rejects_a_strided_tensor_truncated_while_it_is_read() {
    let folder = Folder::new();
    let path = folder.copy_fixture("views.ckpt", "views.ckpt");
    let contents = crate::support::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
    for (key, tensor) in contents.state_dict().iter().filter(|(_, tensor)| tensor.bytes() > 0) {
        let error = tensor.to_bytes().expect_err(key);
        assert!(error.to_string().contains("cut short"), "{key}: {error}");
    }
}

#[test]
fn writes_through_links_and_to_other_file_systems() {
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
    // The temporary file is created next to the target of the link, so that a rename is sufficient.
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

/// Runs the program with a closed standard output.
fn run_with_closed_stdout(arguments: &[OsString]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn exits_cleanly_if_stdout_is_closed_early() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.ckpt");
    let output = folder.join("out.safetensors");
    let inspect = arguments(&[&"inspect", &base, &"--keys", &"--json"]);
    assert_eq!(run_with_closed_stdout(&inspect), (Some(0), String::new()));
    let convert = arguments(&[&"convert", &base, &"-o", &output, &"--json"]);
    assert_eq!(run_with_closed_stdout(&convert), (Some(0), String::new()));
    assert_eq!(read(&output), expected("tiny-sd1.ckpt"));
    // A full standard output is an error, because the result is lost.
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
