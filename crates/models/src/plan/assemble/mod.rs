//! Plans a checkpoint whose components come from several files: some replace those of a checkpoint, or all are put together.
//!
//! The measure is the schema of the architecture that the UNet implies. Each tensor gets its key and its rank; keys, shapes
//! and the widths between the components are checked before anything is written. The VAE is merged by
//! [`merge_vae`](mod@crate::plan::merge_vae).

mod check;
mod part;
mod parts;
mod replace;

use std::borrow::Cow;

use crate::checkpoint::Checkpoint;
use crate::detection::Detection;
use crate::family::Architecture;
use crate::file_kind;
use crate::layout::{Folder, Layout};
use crate::ledger::Origin;
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::Parameterization;
use crate::plan::merge_vae::{self, MergeVaeOptions};
use crate::plan::{Account, Draft, Resolved};
use part::Part;
pub use parts::{AssembleOptions, Parts};
use replace::Replacement;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::{Error, Hint, Result};

/// A checkpoint with components of several files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Assembled {
    /// The plan. Another plan for [`Self::checkpoint`] can follow it; see [`Resolved::then`].
    pub resolved: Resolved,
    /// The output as a checkpoint.
    pub checkpoint: Checkpoint,
    /// What the output predicts, if its UNet was replaced.
    pub parameterization: Option<Parameterization>,
}

/// Plans a checkpoint with the components of `parts`, and all others of `base`. Without `base`, `parts` must have all
/// components of the architecture. `base` may also be a UNet alone.
///
/// Fails if `base` has no UNet of Stable Diffusion; if a file has no such component, or several; if a component lacks a
/// tensor of its schema or has an unknown one; if a shape does not fit; and if the components are of different
/// architectures.
pub fn plan(base: Option<&Checkpoint>, parts: &Parts<'_>, options: &AssembleOptions) -> Result<Assembled> {
    // A UNet alone is one of the parts.
    let lone = base.filter(|base| !file_kind::has_unet(base.state_dict()) && parts.unet.is_none());
    let base = base.filter(|_| lone.is_none());
    if let Some(base) = base.filter(|base| !file_kind::has_unet(base.state_dict())) {
        let found = file_kind::describe(base.state_dict());
        let found =
            format!("expected a checkpoint with a Stable Diffusion UNet (model.diffusion_model.…), found: {found}");
        return Err(Error::unsupported(found).in_file(base.path()));
    }
    let unet = match lone {
        Some(lone) => Some((Origin::Checkpoint, lone)),
        None => parts.unet.map(|unet| (Origin::Unet, unet)),
    };
    let architecture = architecture(base, unet.map(|(_, unet)| unet))?;
    let mut wanted: Vec<_> = unet.into_iter().map(|(origin, file)| (origin, Folder::Unet, file)).collect();
    wanted.extend(parts.encoders(architecture)?);
    // The decoder of a video model has other layers than those that a merge knows.
    let video_vae = parts.vae.filter(|_| architecture == Architecture::StableVideo);
    wanted.extend(video_vae.map(|vae| (Origin::Vae, Folder::Vae, vae)));
    if base.is_none() {
        refuse_incomplete(architecture, &wanted, parts)?;
    }
    let found = wanted.iter().map(|&(origin, folder, file)| {
        Part::find(origin, folder, architecture, file, options.overflow).map_err(|error| error.in_file(file.path()))
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let parameterization = match found.iter().find(|part| part.folder == Folder::Unet) {
        Some(unet) => Some(parameterization(base, unet)?),
        None => None,
    };
    let replaced = networks(base, &found, architecture, parts, options)?;
    let first = base.or(unet.map(|(_, unet)| unet)).ok_or_else(|| Error::usage("no checkpoint and no UNet"))?;
    let mut assembled = match replaced {
        Some(resolved) => {
            let checkpoint = first.with_tensors(resolved.state_dict.clone(), resolved.metadata.clone());
            Assembled { resolved, checkpoint, parameterization }
        }
        None => return only_vae(first, parts, options),
    };
    if let Some(vae) = parts.vae.filter(|_| video_vae.is_none()) {
        let merged = merge_vae::plan(&assembled.checkpoint, vae, &vae_options(options))?;
        assembled.resolved = assembled.resolved.then(merged)?;
        let Resolved { state_dict, metadata, .. } = &assembled.resolved;
        assembled.checkpoint = first.with_tensors(state_dict.clone(), metadata.clone());
    }
    note_prediction(base, &mut assembled)?;
    Ok(assembled)
}

fn vae_options(options: &AssembleOptions) -> MergeVaeOptions {
    MergeVaeOptions::default()
        .overflow(options.overflow)
        .partial(options.partial)
        .allow_family_mismatch(options.allow_family_mismatch)
}

/// Plans the replacement of the VAE alone.
fn only_vae(base: &Checkpoint, parts: &Parts<'_>, options: &AssembleOptions) -> Result<Assembled> {
    let vae = parts.vae.ok_or_else(|| Error::usage("no component to replace"))?;
    let resolved = merge_vae::plan(base, vae, &vae_options(options))?;
    let checkpoint = base.with_tensors(resolved.state_dict.clone(), resolved.metadata.clone());
    Ok(Assembled { resolved, checkpoint, parameterization: None })
}

/// Returns the architecture of the output: that of its UNet. Fails if it is unknown, or if the checkpoint has another one.
fn architecture(base: Option<&Checkpoint>, unet: Option<&Checkpoint>) -> Result<Architecture> {
    let known = |detection: &Detection, file: &Checkpoint| {
        let doubt = || {
            let found = file_kind::describe(file.state_dict());
            format!(
                "a UNet of unknown architecture ({}), so that no component can be replaced; found {found}",
                detection.doubt()
            )
        };
        detection.architecture().ok_or_else(|| Error::unsupported(doubt()).in_file(file.path()))
    };
    let of_base = base.map(|base| part::detect_unet(base).and_then(|found| known(&found, base))).transpose()?;
    let of_unet = unet.map(|unet| part::detect_unet(unet).and_then(|found| known(&found, unet))).transpose()?;
    match (of_base, of_unet, unet) {
        (Some(of_base), Some(of_unet), Some(unet)) if of_base != of_unet => {
            let found = format!("a UNet of {}, the checkpoint is of {}", of_unet.text(), of_base.text());
            Err(Error::mismatch(found).in_file(unet.path()))
        }
        (of_base, of_unet, _) => of_unet.or(of_base).ok_or_else(|| Error::usage("no checkpoint and no UNet")),
    }
}

/// Fails unless there is a file for each component of the architecture.
fn refuse_incomplete(
    architecture: Architecture,
    wanted: &[(Origin, Folder, &Checkpoint)],
    parts: &Parts<'_>,
) -> Result<()> {
    let has = |folder: Folder| match folder {
        Folder::Vae => parts.vae.is_some(),
        other => wanted.iter().any(|(_, folder, _)| *folder == other),
    };
    match Folder::of(architecture).iter().find(|folder| !has(**folder)) {
        None => Ok(()),
        Some(lacking) => {
            let found = format!("no file for the {} that {} needs", part::text(*lacking), architecture.text());
            Err(Error::missing(found).with_hint(Hint::NameComponents))
        }
    }
}

/// Plans the replacement of the UNet and of the text encoders. Returns `None` if `found` is empty.
fn networks(
    base: Option<&Checkpoint>,
    found: &[Part<'_>],
    architecture: Architecture,
    parts: &Parts<'_>,
    options: &AssembleOptions,
) -> Result<Option<Resolved>> {
    if found.is_empty() {
        return Ok(None);
    }
    let layout = Layout::of(architecture);
    for part in found {
        check::refuse_missing(part, layout)?;
    }
    let mut account = found.iter().fold(Account::default(), |account, part| account.input(part.origin, &part.donor));
    let base = match base {
        Some(base) => {
            account = account.input(Origin::Checkpoint, base);
            replace::refuse_unreadable(base, found, architecture, parts.vae.is_some())?;
            Some(replace::dequantized(base, found, architecture, options.overflow)?)
        }
        None => None,
    };
    let base = base.as_ref().map(Cow::as_ref);
    let mut replacement = Replacement::new(base, found, layout);
    replacement.run()?;
    let mut draft: Draft = replacement.draft;
    for part in found {
        check::refuse_shapes(part, architecture, &draft.state_dict)?;
    }
    check::refuse_widths(found, architecture, &draft.state_dict)?;
    if let Some(base) = base {
        base.translation().trace_back(Origin::Checkpoint, &mut draft.ledger);
        let notices: Vec<Notice> = match parts.vae {
            Some(_) => base.translation().notices_about_the_rest().cloned().collect(),
            None => base.translation().notices.clone(),
        };
        // Of a file, only what is replaced was dequantized.
        let is_folder = base.container() == Container::Diffusers;
        let notices = notices.into_iter().filter(|notice| is_folder || notice.code != NoticeCode::Dequantized);
        draft.notices.extend(notices);
    }
    for part in found {
        part.donor.translation().trace_back(part.origin, &mut draft.ledger);
        let notices = part.donor.translation().notices.iter();
        draft.notices.extend(notices.filter(|it| it.code == NoticeCode::Dequantized).cloned());
    }
    let path = base.or(found.first().map(|part| part.donor.as_ref())).map(Checkpoint::path);
    let resolved = draft.check(&account);
    Ok(Some(match path {
        Some(path) => resolved.map_err(|error| error.in_file(path))?,
        None => resolved?,
    }))
}

/// Returns what the output predicts: what the new UNet does, with the constants of the checkpoint's VAE.
fn parameterization(base: Option<&Checkpoint>, unet: &Part<'_>) -> Result<Parameterization> {
    let donor = unet.donor.as_ref();
    let of_unet = match file_kind::has_unet(donor.state_dict()) {
        true => donor.parameterization()?,
        // Statistics and detection need the names of a checkpoint.
        false => donor.with_tensors(unet.as_checkpoint()?, donor.metadata().clone()).parameterization()?,
    };
    Ok(match base {
        Some(base) => base.parameterization()?.with_unet_of(&of_unet),
        None => of_unet,
    })
}

/// Notes a change of what the UNet predicts.
fn note_prediction(base: Option<&Checkpoint>, assembled: &mut Assembled) -> Result<()> {
    let (Some(base), Some(new)) = (base, &assembled.parameterization) else { return Ok(()) };
    let old = base.parameterization()?;
    let describe = |found: &Parameterization| {
        let zero = if found.zero_terminal_snr { " with zero terminal SNR" } else { "" };
        format!("{}{zero}", found.prediction.text())
    };
    let (old, new) = (describe(&old), describe(new));
    if old != new {
        let text = format!("the new UNet predicts {new}, the old one {old}; the output records the new one");
        assembled.resolved.notices.push(Notice::new(NoticeCode::PredictionChanged, text));
    }
    Ok(())
}
