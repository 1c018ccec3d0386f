//! Changes of the metadata of an output that were requested by name.

use trinart_ckpt_formats::Metadata;
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_models::{Notice, NoticeCode};

/// What kohya's trainer records. Its legacy hash covers these fields.
const TRAINING: &str = "ss_";

/// The hash that covers the fields of kohya's trainer.
const LEGACY_HASH: &str = "sshs_legacy_hash";

/// Fields to set and to drop. Fields are dropped first.
#[derive(Debug, Clone, Default)]
pub(super) struct MetadataEdits {
    pub(super) set: Vec<(String, String)>,
    pub(super) drop: Vec<String>,
}

impl MetadataEdits {
    /// Changes the metadata of an output.
    pub(super) fn apply(&self, metadata: &mut Metadata) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut is_training_changed = self.set.iter().any(|(field, _)| field.starts_with(TRAINING));
        for pattern in &self.drop {
            let is_dropped = |field: &str| match pattern.strip_suffix('*') {
                Some(start) => field.starts_with(start),
                None => field == pattern,
            };
            let before = metadata.len();
            metadata.retain(|field, _| {
                let drops = is_dropped(field);
                is_training_changed |= drops && field.starts_with(TRAINING);
                !drops
            });
            if metadata.len() == before {
                let text = format!("no metadata field to drop is called {pattern}");
                notices.push(Notice::new(NoticeCode::MetadataAbsent, text));
            }
        }
        if is_training_changed && metadata.shift_remove(LEGACY_HASH).is_some() {
            let text = format!("left out {LEGACY_HASH}, which covers the metadata fields {TRAINING}*");
            notices.push(Notice::new(NoticeCode::StaleHash, text));
        }
        for (field, value) in &self.set {
            metadata.insert(field.clone(), PyValue::Str(value.clone()));
        }
        notices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_fields_and_then_sets_some() {
        let field = |name: &str| (name.to_owned(), PyValue::Str("old".to_owned()));
        let mut metadata: Metadata = ["title", "ss_tags", "ss_steps", LEGACY_HASH, "author"].map(field).into();
        let edits = MetadataEdits {
            set: vec![("author".into(), "new".into()), ("ss_note".into(), "x=y".into())],
            drop: vec!["ss_*".into(), "title".into(), "nothing".into()],
        };
        let notices = edits.apply(&mut metadata);
        let fields: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value.to_text())).collect();
        assert_eq!(fields, [("author", "new".to_owned()), ("ss_note", "x=y".to_owned())]);
        let codes: Vec<_> = notices.iter().map(|notice| notice.code).collect();
        assert_eq!(codes, [NoticeCode::MetadataAbsent, NoticeCode::StaleHash]);
    }
}
