//! The files beside a checkpoint that belong to it, by the names that WebUI gives them: its VAE, configuration, preview.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_formats::io::{is_dir, remote};
use trinart_ckpt_formats::{Error, Result, Target};

/// The ends of the name of a VAE file, in WebUI's order.
const ENDINGS: [&str; 3] = [".vae.ckpt", ".vae.pt", ".vae.safetensors"];

/// The ends of the names of other files that belong to a checkpoint: configurations, descriptions and previews.
const OTHER_ENDINGS: [&str; 15] = [
    ".yaml",
    ".json",
    ".civitai.info",
    ".preview.png",
    ".preview.jpg",
    ".preview.jpeg",
    ".preview.webp",
    ".preview.gif",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".txt",
    ".md",
];

/// A file beside a checkpoint that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Companion {
    /// The path.
    pub path: PathBuf,
    /// What follows the name of the checkpoint, such as `.preview.png`.
    pub ending: &'static str,
}

impl Companion {
    /// Whether it is a VAE.
    pub fn is_vae(&self) -> bool {
        ENDINGS.contains(&self.ending)
    }
}

/// Returns the name of a checkpoint without its extension. A folder, and a file with an unknown extension, has none.
fn name_of(checkpoint: &Path) -> Option<&OsStr> {
    if is_dir(checkpoint) || Target::from_extension(checkpoint).is_none() {
        checkpoint.file_name()
    } else {
        checkpoint.file_stem()
    }
}

/// Returns the path of a companion with this ending beside a checkpoint.
pub fn beside(checkpoint: &Path, ending: &str) -> PathBuf {
    let mut name = name_of(checkpoint).map(OsStr::to_owned).unwrap_or_default();
    name.push(ending);
    checkpoint.with_file_name(name)
}

/// What stands beside a checkpoint.
enum Surroundings {
    /// A folder of this machine, in which each file can be looked for.
    Folder,
    /// The names that begin as that of the checkpoint, on a server that lists files.
    Listed(BTreeSet<String>),
    /// A server that lists no files.
    Unlisted,
}

impl Surroundings {
    /// Looks beside a checkpoint. Beside an address, this is a request.
    fn of(checkpoint: &Path) -> Result<Self> {
        if remote::address(checkpoint).is_none() {
            return Ok(Surroundings::Folder);
        }
        let Some(files) = remote::beside(&beside(checkpoint, ""))? else { return Ok(Surroundings::Unlisted) };
        let name = |file: &PathBuf| Some(file.file_name()?.to_string_lossy().into_owned());
        Ok(Surroundings::Listed(files.iter().filter_map(name).collect()))
    }

    fn has(&self, path: &Path) -> bool {
        match self {
            Surroundings::Folder => path.is_file(),
            Surroundings::Listed(names) => {
                path.file_name().is_some_and(|name| names.contains(name.to_string_lossy().as_ref()))
            }
            Surroundings::Unlisted => false,
        }
    }
}

/// Lists the files beside a checkpoint that belong to it. `None` if it is on a server that lists no files.
pub fn companions(checkpoint: &Path) -> Result<Option<Vec<Companion>>> {
    let surroundings = Surroundings::of(checkpoint)?;
    if matches!(surroundings, Surroundings::Unlisted) {
        return Ok(None);
    }
    let all = ENDINGS.iter().chain(&OTHER_ENDINGS).map(|ending| (beside(checkpoint, ending), *ending));
    Ok(Some(all.filter(|(path, _)| surroundings.has(path)).map(|(path, ending)| Companion { path, ending }).collect()))
}

/// Splits the name of a file that is named as a companion into that of its checkpoint and its ending. The longest ending
/// counts.
pub fn split(name: &str) -> Option<(&str, &'static str)> {
    let mut found =
        ENDINGS.iter().chain(&OTHER_ENDINGS).filter_map(|ending| Some((name.strip_suffix(ending)?, *ending)));
    let first = found.next()?;
    Some(found.fold(first, |best, other| if other.0.len() < best.0.len() { other } else { best }))
}

/// Returns the checkpoint that a VAE file lies beside and belongs to by its name; `None` for any other file, and on a server
/// that does not tell.
pub fn owner(vae: &Path) -> Option<PathBuf> {
    let name = vae.file_name()?.to_str()?;
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
    let paths = ["safetensors", "ckpt", "pt", "pth", "bin"].map(|it| vae.with_file_name(format!("{stem}.{it}")));
    let surroundings = Surroundings::of(paths.first()?).ok()?;
    paths.into_iter().find(|path| surroundings.has(path))
}

/// The VAE file beside a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sidecar {
    /// The path of the VAE file.
    pub path: PathBuf,
    /// The names of other files in the folder that WebUI could take: those with a later ending, and those whose name only
    /// begins with that of the checkpoint. Sorted.
    pub others: Vec<String>,
}

/// Returns `NAME.vae.ckpt`, `NAME.vae.pt` and `NAME.vae.safetensors` for `NAME.ckpt`. Empty if the path has no file name.
fn candidates(checkpoint: &Path) -> Vec<PathBuf> {
    let Some(stem) = checkpoint.file_stem() else { return Vec::new() };
    let name = |ending: &str| {
        let mut name = stem.to_owned();
        name.push(ending);
        checkpoint.with_file_name(name)
    };
    ENDINGS.map(name).into()
}

/// Finds the VAE file beside a checkpoint: the first of `NAME.vae.ckpt`, `NAME.vae.pt` and `NAME.vae.safetensors` that
/// exists. Fails if none does, or if the checkpoint is on a server that lists no files.
///
/// WebUI also takes files whose names only begin with that of the checkpoint, as `NAME-v2.vae.pt`. Such a file may belong
/// to another checkpoint, so it is reported and not taken.
pub fn find(checkpoint: &Path) -> Result<Sidecar> {
    let candidates = candidates(checkpoint);
    let surroundings = Surroundings::of(checkpoint)?;
    let others = |taken: Option<&Path>| {
        let mut names = similar(checkpoint, &surroundings);
        names.retain(|name| taken.and_then(Path::file_name).is_none_or(|taken| taken.to_string_lossy() != *name));
        names
    };
    if let Some(path) = candidates.iter().find(|path| surroundings.has(path)) {
        return Ok(Sidecar { path: path.clone(), others: others(Some(path)) });
    }
    let names = candidates.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
    let names = names.collect::<Vec<_>>().join(", ");
    let others = others(None);
    let found = match (&surroundings, others.is_empty()) {
        (Surroundings::Unlisted, _) => {
            "the server lists no files, so no VAE was looked for beside the checkpoint".to_owned()
        }
        (_, true) => format!("no VAE beside the checkpoint; looked for {names}"),
        (_, false) => format!(
            "no VAE beside the checkpoint; looked for {names}; found {}, which may belong to another checkpoint",
            list(&others)
        ),
    };
    Err(Error::usage(found).with_hint(Hint::NameVae).in_file(checkpoint))
}

/// Returns the sorted names in the checkpoint's folder that begin with its name and end as those of VAE files. Empty if
/// the folder cannot be read: the files that matter are looked up by name.
fn similar(checkpoint: &Path, surroundings: &Surroundings) -> Vec<String> {
    let folder = checkpoint.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(stem) = checkpoint.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else { return Vec::new() };
    let names: Vec<String> = match surroundings {
        Surroundings::Folder => {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Surroundings::Listed(names) => names.iter().cloned().collect(),
        Surroundings::Unlisted => Vec::new(),
    };
    let is_similar = |name: &String| name.starts_with(&stem) && ENDINGS.iter().any(|ending| name.ends_with(ending));
    let mut names: Vec<String> = names.into_iter().filter(is_similar).collect();
    names.sort();
    names
}

/// The most names that a text lists.
const SHOWN: usize = 3;

/// Lists names: `a, b, c and 2 others`.
pub fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_all_but_the_last_extension() {
        let names = candidates(Path::new("models/it4.v1.ckpt"));
        assert_eq!(names[0], Path::new("models/it4.v1.vae.ckpt"));
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn takes_the_first_in_the_order_of_webui_and_names_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("model.ckpt");
        assert_eq!(find(&checkpoint).unwrap_err().hint(), Some(Hint::NameVae));
        let touch = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        touch("model-v2.vae.pt");
        touch("model.notes.txt");
        let error = find(&checkpoint).unwrap_err().to_string();
        assert!(error.contains("model-v2.vae.pt") && !error.contains("notes"), "{error}");
        let mut others = vec!["model-v2.vae.pt".to_owned()];
        for ending in [".vae.safetensors", ".vae.pt", ".vae.ckpt"] {
            let name = format!("model{ending}");
            touch(&name);
            let found = find(&checkpoint).unwrap();
            assert_eq!(found, Sidecar { path: folder.path().join(&name), others: others.clone() });
            others.push(name);
            others.sort();
        }
    }

    #[test]
    fn lists_a_few_names() {
        let names = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<_>>();
        assert_eq!(list(&names(3)), "0, 1, 2");
        assert_eq!(list(&names(5)), "0, 1, 2 and 2 others");
    }
}
