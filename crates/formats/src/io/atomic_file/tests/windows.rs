//! Promises about files that are open, read-only or named as devices, which differ on Windows.

use std::os::windows::fs::OpenOptionsExt;

use super::*;

/// Opens a file as Python's `open` does: others may read and write it, and not delete it.
fn hold(path: &Path) -> File {
    const READ_WRITE: u32 = 3;
    fs::OpenOptions::new().read(true).share_mode(READ_WRITE).open(path).unwrap()
}

#[test]
fn keeps_a_file_that_another_program_holds_open() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    fs::write(&destination, "old").unwrap();
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    let held = hold(&destination);
    let error = AtomicFile::check_destination(&destination, Overwrite::Replace).unwrap_err().to_string();
    assert!(error.contains("another program") && !error.contains('\n'), "{error}");
    let error = file.persist().unwrap_err().to_string();
    assert!(error.contains("another program") && !error.contains('\n'), "{error}");
    assert_eq!(fs::read(&destination).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["out"]);
    drop(held);
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"new");
}

#[test]
fn waits_for_a_program_that_holds_a_file_for_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    fs::write(&destination, "old").unwrap();
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    let held = hold(&destination);
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(held);
    });
    file.persist().unwrap();
    release.join().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"new");
}

#[test]
fn replaces_a_file_that_is_open_and_may_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    fs::write(&destination, "old").unwrap();
    let mut open = File::open(&destination).unwrap();
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"new");
    let mut old = String::new();
    io::Read::read_to_string(&mut open, &mut old).unwrap();
    assert_eq!(old, "old");
    drop(open);
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn replaces_a_read_only_file_by_a_read_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    let is_read_only = || fs::metadata(&destination).unwrap().permissions().readonly();
    fs::write(&destination, "old").unwrap();
    let mut permissions = fs::metadata(&destination).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&destination, permissions).unwrap();
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"new");
    assert!(is_read_only());
    assert_eq!(names(folder.path()), ["out"]);
    sys::remove_file(&destination).unwrap();
}

#[test]
fn writes_to_paths_of_any_length_and_form() {
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_owned();
    for _ in 0..8 {
        deep.push("a".repeat(60));
    }
    fs::create_dir_all(&deep).unwrap();
    let verbatim = fs::canonicalize(folder.path()).unwrap();
    assert!(verbatim.to_str().unwrap().starts_with(r"\\?\"));
    let slashes = PathBuf::from(folder.path().to_str().unwrap().replace('\\', "/"));
    for parent in [deep, verbatim, slashes] {
        let destination = parent.join("schöne größe 模型.safetensors");
        for content in [b"one", b"two"] {
            let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
            file.write_at(0, content).unwrap();
            file.persist().unwrap();
            assert_eq!(fs::read(&destination).unwrap(), content);
        }
        let shouted = parent.join("SCHÖNE GRÖSSE 模型.safetensors".replace("GRÖSSE", "GRÖßE"));
        assert!(AtomicFile::create(&shouted, Overwrite::Refuse).unwrap_err().to_string().contains("already exists"));
        assert_eq!(names(&parent).iter().filter(|name| name.ends_with("safetensors")).count(), 1);
    }
}

#[test]
fn rejects_names_of_devices_and_names_that_windows_changes() {
    let folder = tempfile::tempdir().unwrap();
    let rejected = [
        "CON",
        "nul",
        "aux.safetensors",
        "Com1.ckpt",
        "LPT9.tar.gz",
        "com².pt",
        "CONOUT$",
        "prn .ckpt",
        "out.",
        "out ",
        "out.ckpt::$DATA",
        "out:stream",
        "what?",
        "a*b",
        "a|b",
        "a<b",
        "tab\tname",
    ];
    for name in rejected {
        let destination = folder.path().join(name);
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            let error = AtomicFile::create(&destination, overwrite).unwrap_err().to_string();
            assert!(error.contains("the name of the output"), "{name}: {error}");
        }
    }
    for name in ["console.ckpt", "com10.ckpt", "auxiliary", "null.pt", ".aux", "com.ckpt", "a.con"] {
        AtomicFile::check_destination(&folder.path().join(name), Overwrite::Refuse).unwrap();
    }
    assert!(names(folder.path()).is_empty());
}
