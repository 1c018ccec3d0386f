use super::*;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_destination_appears_only_when_complete() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    let file = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
    file.reserve(4).unwrap();
    file.write_at(0, b"full").unwrap();
    assert!(!destination.exists());
    file.sync().unwrap();
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"full");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn reads_back_the_blocks_written_at_any_file_length() {
    for len in [1, 4095, 4096, 5000, AlignedBuffer::LEN, AlignedBuffer::LEN + 1, 2 * AlignedBuffer::LEN - 7] {
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        file.reserve(len as u64).unwrap();
        let content: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
        for (index, piece) in content.chunks(AlignedBuffer::LEN).enumerate() {
            let mut buffer = AlignedBuffer::new();
            buffer.bytes_mut()[..piece.len()].copy_from_slice(piece);
            file.write_block((index * AlignedBuffer::LEN) as u64, &buffer, piece.len()).unwrap();
        }
        for (index, piece) in content.chunks(AlignedBuffer::LEN).enumerate() {
            let mut buffer = AlignedBuffer::new();
            file.read_block((index * AlignedBuffer::LEN) as u64, &mut buffer, piece.len()).unwrap();
            assert_eq!(&buffer.bytes()[..piece.len()], piece, "{len}");
        }
        file.persist().unwrap();
        assert_eq!(fs::read(folder.path().join("out")).unwrap(), content);
    }
}

#[test]
fn rejects_a_destination_whose_folder_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"").unwrap();
    for (name, word) in [("nodir/out", "nodir does not exist"), ("file/out", "not a folder"), ("a/b/c", "a/b does")] {
        let error = AtomicFile::check_destination(&folder.path().join(name), Overwrite::Replace).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = AtomicFile::check_destination(Path::new("nodir/out"), Overwrite::Refuse).unwrap_err();
    assert_eq!(error.message(), "the folder nodir does not exist");
    AtomicFile::check_destination(Path::new("out-of-this-test"), Overwrite::Refuse).unwrap();
}

#[test]
fn dropping_the_file_removes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = AtomicFile::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
    file.write_at(0, b"half").unwrap();
    drop(file);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn replaces_an_existing_file_only_when_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    fs::write(&destination, b"old").unwrap();
    assert!(AtomicFile::create(&destination, Overwrite::Refuse).is_err());
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"new").unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"old");
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"new");
}

#[test]
fn keeps_a_file_that_appears_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    let file = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
    fs::write(&destination, b"theirs").unwrap();
    assert!(file.persist().is_err());
    assert_eq!(fs::read(&destination).unwrap(), b"theirs");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn removes_leftovers_of_killed_processes_only() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out");
    fs::write(folder.path().join(".out.1-0.trinart-partial"), b"left behind").unwrap();
    let running = AtomicFile::create_by(&destination, Overwrite::Refuse, |_| None).unwrap();
    let second = AtomicFile::create_by(&destination, Overwrite::Refuse, |_| None).unwrap();
    assert_ne!(running.path(), second.path());
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn a_file_has_no_name_until_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    if sys::create_nameless(folder.path()).is_none() {
        // The file system requires names.
        return;
    }
    let destination = folder.path().join("out");
    let file = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
    file.write_at(0, b"first").unwrap();
    assert!(names(folder.path()).is_empty());
    file.persist().unwrap();
    let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
    file.write_at(0, b"second").unwrap();
    assert_eq!(names(folder.path()), ["out"]);
    file.persist().unwrap();
    assert_eq!(fs::read(&destination).unwrap(), b"second");
    assert_eq!(names(folder.path()), ["out"]);
}

type Nameless = fn(&Path) -> Option<(File, PathBuf)>;

/// The two ways to create a file.
const WAYS: [Nameless; 2] = [sys::create_nameless, |_| None];

#[test]
fn writers_that_race_leave_one_whole_file() {
    for nameless in WAYS {
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            let folder = tempfile::tempdir().unwrap();
            let destination = folder.path().join("out");
            let write = |byte: u8| {
                let file = AtomicFile::create_by(&destination, overwrite, nameless)?;
                for piece in 0..16 {
                    file.write_at(piece * 1000, &[byte; 1000])?;
                }
                // Its own content is still at its path.
                assert_eq!(fs::read(file.path()).unwrap(), [byte; 16_000]);
                file.persist()
            };
            let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..40).map(|byte| scope.spawn(move || write(byte))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_eq!(error.message(), "already exists");
            }
            let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(done, if overwrite == Overwrite::Refuse { 1 } else { 40 });
            let found = fs::read(&destination).unwrap();
            assert_eq!(found, vec![found[0]; 16_000]);
            assert_eq!(names(folder.path()), ["out"]);
        }
    }
}
