use crate::notice::{Notice, NoticeCode};
use crate::plan::guard::LEGACY_HASH;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::limits;
use trinart_ckpt_formats::metadata::{Metadata, PyValue};

/// The beginning of the fields that kohya's trainer writes. Its legacy hash depends on them.
const TRAINING: &str = "ss_";

/// Changes of the metadata that the user requests. Fields are dropped first, then set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetadataEdits {
    /// Fields to set, with their texts, in this order.
    pub set: Vec<(String, String)>,
    /// Names of fields to drop. `*` stands for any characters, `?` for one.
    pub drop: Vec<String>,
}

impl MetadataEdits {
    /// Changes the metadata of an output. Returns a notice for each name that no field has, and for a hash that is stale now.
    ///
    /// Fails if a field has no name, or if the fields exceed [`limits::METADATA_FIELDS`] or [`limits::METADATA_BYTES`].
    pub fn apply(&self, metadata: &mut Metadata) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        let mut changes_training = false;
        for pattern in &self.drop {
            let before = metadata.len();
            metadata.retain(|name, _| {
                let is_dropped = matches(pattern, name);
                changes_training |= is_dropped && name.starts_with(TRAINING);
                !is_dropped
            });
            if metadata.len() == before {
                let text = format!("no metadata field to drop is called {pattern}");
                notices.push(Notice::new(NoticeCode::NoSuchMetadata, text));
            }
        }
        for (name, value) in &self.set {
            if name.is_empty() {
                return Err(Error::usage("a metadata field to set has no name"));
            }
            let value = PyValue::Str(value.clone());
            let old = metadata.insert(name.clone(), value.clone());
            changes_training |= name.starts_with(TRAINING) && old != Some(value);
        }
        let is_set = |name: &str| self.set.iter().any(|(set, _)| set == name);
        if changes_training && !is_set(LEGACY_HASH) && metadata.shift_remove(LEGACY_HASH).is_some() {
            let text = format!("left out {LEGACY_HASH}, a hash that depends on the {TRAINING}* fields");
            notices.push(Notice::new(NoticeCode::StaleHash, text));
        }
        check_limits(metadata)?;
        Ok(notices)
    }

    /// Returns whether nothing was requested.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty()
    }
}

/// Fails if readers with the limits of this program would not read all fields.
fn check_limits(metadata: &Metadata) -> Result<()> {
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.to_text().len()).sum();
    if metadata.len() > limits::METADATA_FIELDS || bytes > limits::METADATA_BYTES {
        let found = format!("metadata of {} fields and {bytes} bytes", metadata.len());
        let (fields, most) = (limits::METADATA_FIELDS, limits::METADATA_BYTES);
        return Err(Error::limit(format!("{found}; the limits are {fields} fields and {most} bytes")));
    }
    Ok(())
}

/// Returns whether a name matches a pattern. Takes time in proportion to the product of their lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // Where to continue if the characters after the last * do not match.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || name.get(in_name) == Some(wanted) => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star_at, from)) = star else { return false };
                star = Some((star_at, from + 1));
                at = star_at + 1;
                in_name = from + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|letter| *letter == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(fields: &[(&str, &str)]) -> Metadata {
        fields.iter().map(|(name, value)| ((*name).to_owned(), PyValue::Str((*value).to_owned()))).collect()
    }

    fn edits(set: &[(&str, &str)], drop: &[&str]) -> MetadataEdits {
        MetadataEdits {
            set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn drops_then_sets_and_keeps_the_order() {
        let mut fields = metadata(&[("a", "1"), ("ss_x", "2"), ("ss_y", "3"), ("b", "4")]);
        let notices = edits(&[("b", "5"), ("c", "6"), ("ss_x", "7")], &["ss_*", "none"]).apply(&mut fields).unwrap();
        assert_eq!(fields, metadata(&[("a", "1"), ("b", "5"), ("c", "6"), ("ss_x", "7")]));
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["a", "b", "c", "ss_x"]);
        assert_eq!(notices.iter().map(|notice| notice.code).collect::<Vec<_>>(), [NoticeCode::NoSuchMetadata]);
    }

    #[test]
    fn drops_the_hash_that_depends_on_a_changed_field() {
        let fields = metadata(&[("ss_x", "1"), (LEGACY_HASH, "ab"), ("title", "t")]);
        for (edits, keeps) in [
            (edits(&[("ss_x", "2")], &[]), false),
            (edits(&[], &["ss_x"]), false),
            (edits(&[("ss_x", "1"), ("title", "u")], &[]), true),
            (edits(&[("ss_x", "2"), (LEGACY_HASH, "cd")], &[]), true),
        ] {
            let mut changed = fields.clone();
            let notices = edits.apply(&mut changed).unwrap();
            assert_eq!((changed.contains_key(LEGACY_HASH), notices.is_empty()), (keeps, keeps), "{edits:?}");
        }
    }

    #[test]
    fn rejects_fields_without_a_name_and_beyond_the_limits() {
        assert!(edits(&[("", "x")], &[]).apply(&mut Metadata::new()).is_err());
        let long = "x".repeat(limits::METADATA_BYTES - 1);
        edits(&[("a", &long)], &[]).apply(&mut Metadata::new()).unwrap();
        let error = edits(&[("ab", &long)], &[]).apply(&mut Metadata::new()).unwrap_err();
        assert_eq!(error.kind(), trinart_ckpt_formats::error::Kind::Limit);
    }

    #[test]
    fn matches_patterns() {
        for (pattern, name, expected) in [
            ("ss_*", "ss_", true),
            ("ss_*", "ss", false),
            ("*", "", true),
            ("*hash*", "modelspec.hash_sha256", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*d", "abcbd", true),
            ("*b*d", "abcbde", false),
            ("a", "A", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
