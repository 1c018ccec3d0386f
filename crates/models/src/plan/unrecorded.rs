//! Finds what a folder says about its networks and a single file cannot: its readers assume what published models have.

use std::collections::BTreeSet;

use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::{Error, Hint, Result};

use crate::Component;
use crate::checkpoint::Checkpoint;
use crate::family::Task;
use crate::hyperparameters::unlike_published;
use crate::layout::Folder;
use crate::ledger::{LedgerLine, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Resolved, carry};

/// Checks a single file with tensors of `input`. Fails if `input` is a folder whose configurations describe networks that
/// compute something else than published models with these tensors; with `allow_loss`, returns a notice for each instead.
pub fn check(input: &Checkpoint, resolved: &Resolved, allow_loss: bool) -> Result<Vec<Notice>> {
    let of_input = resolved.ledger.lines().iter().filter(|line| line.from == Origin::Checkpoint);
    let components: BTreeSet<_> = of_input.flat_map(LedgerLine::outputs).map(|key| Component::from_key(key)).collect();
    let has = |component| components.contains(&component);
    // A scheduler goes with the UNet that was trained with it.
    let is_wanted = |name: &str| match Folder::from_name(name) {
        Some(_) => carry::applies(name, &has),
        None => has(Component::Unet),
    };
    let found = unrecorded(input, &is_wanted)?;
    match found.first() {
        Some(first) if !allow_loss => Err(cannot(first).with_hint(Hint::AllowLoss)),
        _ => {
            let note = |text: &String| format!("{text}; only the metadata records it, other programs ignore it");
            Ok(found.iter().map(|text| Notice::new(NoticeCode::ConfigurationNotRead, note(text))).collect())
        }
    }
}

/// Fails if a component of a folder, which is to become part of another checkpoint, is not as in published models.
pub(super) fn refuse(donor: &Checkpoint, folder: Folder) -> Result<()> {
    unrecorded(donor, &|name| name == folder.name())?.first().map_or(Ok(()), |first| Err(cannot(first)))
}

fn unrecorded(input: &Checkpoint, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    if input.container() != Container::Diffusers {
        return Ok(Vec::new());
    }
    let detection = Checkpoint::detect(input.stored());
    // Other models, such as upscalers, have a `.yaml` of their own.
    if matches!(detection.task, Some(Task::Other(_))) {
        return Ok(Vec::new());
    }
    unlike_published(input.stored().configs(), detection.architecture(), is_wanted)
}

fn cannot(found: &str) -> Error {
    Error::unsupported(format!("{found}; only a diffusers folder records it"))
}
