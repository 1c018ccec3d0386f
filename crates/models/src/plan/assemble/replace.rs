use std::borrow::Cow;
use std::collections::HashSet;

use super::part::{Part, text};
use crate::checkpoint::Checkpoint;
use crate::family::Architecture;
use crate::layout::{Folder, IMAGE_ENCODER_PREFIX, Layout};
use crate::ledger::{Change, DropReason, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::is_mark_key;
use crate::plan::video::FIRST_FRAME;
use crate::plan::{Draft, merge_vae};
use crate::quantization::Wanted;
use crate::{ema, position_ids, vae};
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::tensor::{LazyTensor, Overflow};

/// Returns the replaced part that a key of a checkpoint belongs to, in whatever state.
fn part_of<'p, 'a>(parts: &'p [Part<'a>], architecture: Architecture, key: &str) -> Option<&'p Part<'a>> {
    parts.iter().find(|part| {
        let prefixes: &[&str] = match (part.folder, architecture) {
            (Folder::Unet, _) => &["model.diffusion_model."],
            (Folder::TextEncoder, it) if it.has_two_text_encoders() => &["conditioner.embedders.0."],
            (Folder::TextEncoder2, it) if it.has_two_text_encoders() => &["conditioner.embedders.1."],
            (Folder::ImageEncoder, _) => &[IMAGE_ENCODER_PREFIX],
            // The new VAE encodes the first frame too.
            (Folder::Vae, Architecture::StableVideo) => &[vae::PREFIX, FIRST_FRAME],
            (Folder::TextEncoder | Folder::TextEncoder2, _) => &["cond_stage_model.", "conditioner.embedders.0."],
            (Folder::Vae | Folder::ControlNet, _) => &[],
        };
        prefixes.iter().any(|prefix| key.starts_with(prefix))
    })
}

/// Dequantizes the components that are replaced, which must not leave companions behind.
pub(super) fn dequantized<'a>(
    base: &'a Checkpoint,
    parts: &[Part<'_>],
    architecture: Architecture,
    overflow: Overflow,
) -> Result<Cow<'a, Checkpoint>> {
    let is_replaced = |key: &str| part_of(parts, architecture, key).is_some();
    base.dequantized(&|key| if is_replaced(key) { Wanted::Values } else { Wanted::Stored }, overflow)
}

/// Fails if the checkpoint has a tensor that cannot be read, unless it is replaced.
pub(super) fn refuse_unreadable(
    base: &Checkpoint,
    parts: &[Part<'_>],
    architecture: Architecture,
    has_vae: bool,
) -> Result<()> {
    let is_replaced =
        |key: &str| part_of(parts, architecture, key).is_some() || has_vae && merge_vae::is_of_old_vae(key);
    base.stored().refuse_unreadable_among(|key| !is_replaced(key))
}

/// Puts parts into the places of those that they replace.
pub(super) struct Replacement<'a> {
    base: Option<&'a Checkpoint>,
    parts: &'a [Part<'a>],
    layout: &'static Layout,
    /// The keys of parts that are in the output.
    written: HashSet<&'static str>,
    /// The checkpoint's own tensors that were kept in a replaced component.
    own: Vec<(Folder, String)>,
    pub(super) draft: Draft,
}

impl<'a> Replacement<'a> {
    pub(super) fn new(base: Option<&'a Checkpoint>, parts: &'a [Part<'a>], layout: &'static Layout) -> Self {
        let first = base.or(parts.first().map(|part| part.donor.as_ref()));
        let metadata = first.map(|first| first.metadata().clone()).unwrap_or_default();
        Replacement {
            base,
            parts,
            layout,
            written: HashSet::new(),
            own: Vec::new(),
            draft: Draft { metadata, ..Draft::default() },
        }
    }

    pub(super) fn run(&mut self) -> Result<()> {
        if let Some(base) = self.base {
            self.replace_in(base)?;
        }
        for part in self.parts {
            self.put_rest(part)?;
            self.put_marks(part)?;
            part.record_dropped(&mut self.draft.ledger);
            self.note_optional(part);
        }
        Ok(())
    }

    /// Notes what a part lacks that rendering does not use.
    fn note_optional(&mut self, part: &Part<'_>) {
        let such_as = |keys: &[&str]| {
            let tensors = if keys.len() == 1 { "tensor" } else { "tensors" };
            keys.first().map(|first| format!("{} {tensors} that rendering does not use, such as {first}", keys.len()))
        };
        let own: Vec<&str> =
            self.own.iter().filter(|(folder, _)| *folder == part.folder).map(|(_, key)| &**key).collect();
        let kept = such_as(&own).map(|keys| {
            let text = format!("kept the checkpoint's own where the new {} lacks {keys}", text(part.folder));
            Notice::new(NoticeCode::OwnPartKept, text)
        });
        let schema = self.layout.ldm_schema(part.folder).map(|schema| schema.key.as_str());
        let lacking: Vec<&str> =
            schema.filter(|key| self.is_optional(key) && !self.draft.state_dict.contains(key)).collect();
        let missing = such_as(&lacking).map(|keys| {
            let text = format!("the {} lacks {keys}", text(part.folder));
            Notice::new(NoticeCode::Incomplete, text)
        });
        self.draft.notices.extend(kept.into_iter().chain(missing));
    }

    fn replace_in(&mut self, base: &'a Checkpoint) -> Result<()> {
        let architecture = self.layout.architecture();
        let has_unet = self.parts.iter().any(|part| part.folder == Folder::Unet);
        let last_of = |part: &Part<'_>| {
            let is_of = |key: &&str| part_of(self.parts, architecture, key).is_some_and(|it| it.folder == part.folder);
            base.state_dict().keys().filter(is_of).last()
        };
        let last: Vec<(&str, &Part<'_>)> = self.parts.iter().filter_map(|part| Some((last_of(part)?, part))).collect();
        for (key, tensor) in base.state_dict().iter() {
            match part_of(self.parts, architecture, key) {
                Some(part) => self.replace(part, key, tensor)?,
                None if has_unet && key.starts_with(ema::PREFIX) => {
                    self.draft.ledger.dropped(Origin::Checkpoint, key, DropReason::EmaOfReplaced);
                }
                None if has_unet && is_mark_key(key) => {
                    self.draft.ledger.dropped(Origin::Checkpoint, key, DropReason::OldPart);
                }
                None => self.keep(key, tensor)?,
            }
            for (_, part) in last.iter().filter(|(last, _)| *last == key) {
                self.put_rest(part)?;
            }
        }
        for unreadable in base.stored().unreadable() {
            let reason = match merge_vae::is_of_old_vae(&unreadable.key) {
                true => DropReason::OldVae,
                false => DropReason::OldPart,
            };
            self.draft.ledger.dropped(Origin::Checkpoint, &unreadable.key, reason);
        }
        Ok(())
    }

    /// Handles a tensor of a replaced component: puts the new one in its place.
    fn replace(&mut self, part: &'a Part<'a>, key: &str, tensor: &LazyTensor) -> Result<()> {
        let place = self.layout.to_diffusers(key).next();
        let place = place.and_then(|found| self.layout.to_ldm(found.folder, found.key)).map(|found| found.key);
        match place {
            Some(place) if part.pieces.contains_key(place) => {
                self.draft.ledger.replaced(Origin::Checkpoint, key);
                self.put(part, place)
            }
            // Constants, and what rendering does not use: files of text encoders omit it.
            Some(place) if place == key && self.is_optional(place) => {
                if !position_ids::is_key(key) {
                    self.own.push((part.folder, key.to_owned()));
                }
                self.written.insert(place);
                self.keep(key, tensor)
            }
            _ => {
                self.draft.ledger.dropped(Origin::Checkpoint, key, DropReason::OldPart);
                Ok(())
            }
        }
    }

    /// Whether folders omit a tensor.
    fn is_optional(&self, key: &str) -> bool {
        self.layout.pairs().iter().any(|pair| pair.ldm.key == key && !pair.in_folder)
    }

    /// Puts the tensors of a part that are not in the output yet, and the position_ids that it lacks.
    fn put_rest(&mut self, part: &'a Part<'a>) -> Result<()> {
        for schema in self.layout.ldm_schema(part.folder) {
            let key = schema.key.as_str();
            if part.pieces.contains_key(key) {
                self.put(part, key)?;
            } else if position_ids::is_key(key) && !self.written.contains(key) {
                self.put_position_ids(part, key)?;
            }
        }
        Ok(())
    }

    fn put_position_ids(&mut self, part: &Part<'_>, key: &'static str) -> Result<()> {
        let embedding = position_ids::embedding_beside(key).and_then(|embedding| part.pieces.get(embedding.as_str()));
        let rows = embedding.and_then(|piece| piece.tensor.shape().dims().first().copied());
        let positions = rows.or_internal("a text encoder has no position embedding")?;
        self.draft.state_dict.insert(key, position_ids::correct(positions)?)?;
        self.draft.ledger.written(Origin::Program, key, key, vec![Change::Inserted]);
        self.written.insert(key);
        Ok(())
    }

    /// Adds a tensor of a part to the output, unless it is there.
    fn put(&mut self, part: &Part<'_>, key: &'static str) -> Result<()> {
        if !self.written.insert(key) {
            return Ok(());
        }
        let piece = part.pieces.get(key).or_internal("a tensor of a part vanished during planning")?;
        let had = self.base.is_some_and(|base| {
            let spellings = self.layout.pairs().iter().find(|pair| pair.ldm.key == key);
            spellings.is_some_and(|pair| pair.ldm_spellings().any(|key| base.state_dict().contains(key)))
        });
        self.draft.state_dict.insert(key, piece.tensor.clone())?;
        for input in &piece.inputs {
            let mut changes = vec![if had { Change::Replaces } else { Change::Inserted }];
            changes.extend(piece.changes.iter().cloned());
            self.draft.ledger.written(part.origin, input, key, changes);
        }
        Ok(())
    }

    /// Adds the marks of a UNet.
    fn put_marks(&mut self, part: &Part<'_>) -> Result<()> {
        for (key, tensor) in part.marks() {
            self.draft.state_dict.insert(key, tensor.clone())?;
            self.draft.ledger.written(part.origin, key, key, vec![Change::Inserted]);
        }
        Ok(())
    }

    fn keep(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        self.draft.state_dict.insert(key, tensor.clone())?;
        self.draft.ledger.written(Origin::Checkpoint, key, key, Vec::new());
        Ok(())
    }
}
