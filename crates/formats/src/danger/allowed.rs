//! Names that the user vouches for.

use std::path::Path;
use std::sync::Arc;

use super::names::is_dangerous;
use crate::error::{Error, Result};
use crate::pickle::Name;

/// Most patterns of one list.
const MOST_PATTERNS: usize = 10_000;

/// Largest file of patterns, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// Names that the user vouches for, as patterns such as `ultralytics.nn.*`.
///
/// A pickle may do anything with an allowed name: call it, set its attributes, use its results as keys. A pattern with
/// `*` never applies to a name that is dangerous; such a name must be spelled out.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    patterns: Vec<Arc<str>>,
}

impl Allowed {
    /// Returns an empty list.
    pub fn new() -> Self {
        Allowed::default()
    }

    /// Adds a pattern: `MODULE.NAME`, in which `*` stands for any characters, also dots.
    ///
    /// Fails if it is not a dotted name, or if its first part contains `*`: it would vouch for every package.
    pub fn add(&mut self, pattern: &str) -> Result<()> {
        let parts: Vec<&str> = pattern.split('.').collect();
        let is_plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_*".contains(&byte))
        };
        if parts.len() < 2 || !parts.iter().all(is_plain) {
            let found = format!("invalid pattern {pattern}: expected MODULE.NAME, such as ultralytics.nn.*");
            return Err(Error::usage(found));
        }
        if parts.first().is_some_and(|first| first.contains('*')) {
            let found = format!("invalid pattern {pattern}: its first part must name a package, without *");
            return Err(Error::usage(found));
        }
        if self.patterns.len() == MOST_PATTERNS {
            return Err(Error::limit(format!("more than {MOST_PATTERNS} allowed names")));
        }
        self.patterns.push(pattern.into());
        Ok(())
    }

    /// Adds the patterns of a text file, one per line. Ignores empty lines, and comments from `#` to the end of a line.
    pub fn add_file(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = read(path).map_err(|error| error.in_file(path))?;
        for line in text.lines() {
            let pattern = line.split_once('#').map_or(line, |(pattern, _)| pattern).trim();
            if !pattern.is_empty() {
                self.add(pattern).map_err(|error| error.in_file(path))?;
            }
        }
        Ok(())
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns the first pattern that vouches for a name.
    pub(super) fn permits(&self, name: &Name) -> Option<&Arc<str>> {
        // `a.b` as a name reaches an attribute of any object of the module. No pattern can mean that.
        if self.patterns.is_empty() || name.name.contains('.') {
            return None;
        }
        let full = name.to_string();
        self.patterns
            .iter()
            .find(|pattern| ***pattern == *full || pattern.contains('*') && !is_dangerous(name) && glob(pattern, &full))
    }
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let fail = |error| Error::io("cannot read the list of allowed names", error);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(Error::limit(format!("a list of allowed names of more than {LARGEST_FILE} bytes")));
    }
    Ok(text)
}

/// Whether a text matches a pattern, in which each `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(pattern: &str, module: &str, name: &str) -> bool {
        let mut allowed = Allowed::new();
        allowed.add(pattern).unwrap();
        allowed.permits(&Name { module: module.into(), name: name.into() }).is_some()
    }

    #[test]
    fn matches_names_and_globs() {
        assert!(permits("ultralytics.nn.*", "ultralytics.nn.tasks", "DetectionModel"));
        assert!(permits("a.*.C*d", "a.b.c", "Cxd"));
        assert!(permits("a.b", "a", "b"));
        assert!(!permits("ultralytics.nn.*", "ultralytics.nnx", "Model"));
        assert!(!permits("a.b", "a", "bc"));
        assert!(!permits("a.*.C*d", "a.b.c", "Cxde"));
    }

    #[test]
    fn allows_a_dangerous_name_only_in_full() {
        assert!(permits("posix.system", "posix", "system"));
        assert!(!permits("posix.*", "posix", "system"));
        assert!(!permits("random._os.system", "random", "_os.system"));
        assert!(!permits("mypackage.*", "mypackage.os", "anything"));
    }

    #[test]
    fn rejects_patterns_that_name_no_package() {
        for pattern in ["*", "*.Model", "Model", "a..b", ".a", "a b.c", ""] {
            assert!(Allowed::new().add(pattern).is_err(), "{pattern}");
        }
    }
}
