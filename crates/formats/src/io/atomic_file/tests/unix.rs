//! Promises that need the permissions and links of Unix.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

#[test]
fn keeps_the_permissions_of_the_file_it_replaces() {
    for nameless in WAYS {
        for mode in [0o600, 0o400, 0o664, 0o755] {
            let folder = tempfile::tempdir().unwrap();
            let destination = folder.path().join("out");
            fs::write(&destination, b"old").unwrap();
            fs::set_permissions(&destination, fs::Permissions::from_mode(mode)).unwrap();
            let file = AtomicFile::create_by(&destination, Overwrite::Replace, nameless).unwrap();
            assert_eq!(file.file.metadata().unwrap().mode() & 0o777, mode | 0o600, "while it is written");
            file.persist().unwrap();
            assert_eq!(fs::metadata(&destination).unwrap().mode() & 0o777, mode);
        }
    }
}

#[test]
fn writes_through_a_symbolic_link() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    fs::write(&target, b"old").unwrap();
    symlink(&target, &link).unwrap();
    let file = AtomicFile::create(&link, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    file.persist().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&target).unwrap(), b"new");
    fs::remove_file(&target).unwrap();
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        assert!(AtomicFile::create(&link, overwrite).unwrap_err().to_string().contains("does not exist"));
    }
    assert_eq!(names(folder.path()), ["link"]);
}
