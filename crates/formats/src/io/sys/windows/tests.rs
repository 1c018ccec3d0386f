use super::*;

#[test]
fn makes_paths_verbatim() {
    let cases = [
        (r"C:\models\out.ckpt", r"\\?\C:\models\out.ckpt"),
        ("C:/models/../out.ckpt", r"\\?\C:\out.ckpt"),
        (r"\\server\share\out.ckpt", r"\\?\UNC\server\share\out.ckpt"),
        (r"\\?\C:\out.ckpt", r"\\?\C:\out.ckpt"),
        (r"\\?\UNC\server\share\out.ckpt", r"\\?\UNC\server\share\out.ckpt"),
    ];
    for (path, expected) in cases {
        assert_eq!(verbatim(Path::new(path)).unwrap(), expected);
    }
    let relative = verbatim(Path::new("out.ckpt")).unwrap().into_string().unwrap();
    assert!(relative.starts_with(r"\\?\") && relative.ends_with(r"\out.ckpt"), "{relative}");
}

#[test]
fn identifies_files_by_more_than_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one.ckpt"), folder.path().join("other.ckpt"));
    fs::write(&one, "same").unwrap();
    fs::write(&other, "same").unwrap();
    let of = |path: &Path| identity(path).unwrap();
    assert_eq!(of(&one), of(&folder.path().join("ONE.ckpt")));
    assert_eq!(of(folder.path()), of(&folder.path().join(".")));
    assert_ne!(of(&one), of(&other));
    fs::hard_link(&one, folder.path().join("link")).unwrap();
    assert_eq!(of(&one), of(&folder.path().join("link")));
}

#[test]
fn nobody_else_deletes_a_folder_that_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = (folder.path().join("held"), folder.path().join("to"));
    fs::create_dir(&path).unwrap();
    let hold = hold_folder(&path).unwrap();
    assert!(lock_abandoned(&path).is_none() && hold_folder(&path).is_none());
    fs::create_dir(&to).unwrap();
    rename_folder(Some(&hold), &path, &to).unwrap();
    drop(hold);
    assert!(!path.exists() && lock_abandoned(&to).is_some());
}
