use std::borrow::Cow;

use indexmap::IndexMap;

use crate::checkpoint::{Checkpoint, MappedTensor, assemble};
use crate::detection::Detection;
use crate::family::Architecture;
use crate::file_kind;
use crate::layout::{Folder, Layout};
use crate::ledger::{Change, DropReason, Ledger, Origin};
use crate::parameterization::is_mark_key;
use crate::plan::{spelling, unrecorded};
use crate::position_ids;
use crate::quantization::Wanted;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, Overflow};

/// The names of tensors that some files have in a text encoder, and that Stable Diffusion does not use.
const UNUSED_BY_TEXT: &[&str] = &["text_projection", "text_projection.weight", "logit_scale", "position_ids"];

/// A tensor of a component in LDM names.
pub(super) struct Piece {
    /// The keys in the file: several if the tensor is joined from them.
    pub(super) inputs: Vec<String>,
    pub(super) tensor: LazyTensor,
    pub(super) changes: Vec<Change>,
}

/// A component of a file, under LDM names, however the file spells them.
pub(super) struct Part<'a> {
    pub(super) origin: Origin,
    pub(super) folder: Folder,
    /// The file. Quantized weights of the component are dequantized.
    pub(super) donor: Cow<'a, Checkpoint>,
    /// The tensors by their key in LDM names, in the order of a checkpoint.
    pub(super) pieces: IndexMap<&'static str, Piece>,
    /// The other keys of the file, and why they are not used.
    dropped: Vec<(String, DropReason)>,
}

/// Detects the architecture of the UNet of a file, in whatever names. Fails if there is no UNet.
pub(super) fn detect_unet(donor: &Checkpoint) -> Result<Detection> {
    let state_dict = donor.state_dict();
    let Some(prefix) = spelling::unet_prefix(state_dict) else {
        let found = format!("contains no UNet; the file is: {}", file_kind::describe(state_dict));
        return Err(Error::missing(found).in_file(donor.path()));
    };
    Ok(spelling::detect_at(state_dict, prefix))
}

impl<'a> Part<'a> {
    /// Finds a component in a file.
    ///
    /// Fails unless the file has exactly one, and if a tensor has several names or cannot be read, and if a key under the prefix of
    /// the component is unknown.
    pub(super) fn find(
        origin: Origin,
        folder: Folder,
        architecture: Architecture,
        donor: &'a Checkpoint,
        overflow: Overflow,
    ) -> Result<Self> {
        let layout = Layout::of(architecture);
        let prefix = find_prefix(layout, folder, donor)?.to_owned();
        refuse_unreadable(layout, folder, donor)?;
        unrecorded::refuse(donor, folder)?;
        let wanted = |key: &str| match key.starts_with(&prefix) {
            true => Wanted::Values,
            false => Wanted::Stored,
        };
        let donor = donor.dequantized(&wanted, overflow)?;
        let (pieces, dropped) = pieces(layout, folder, &prefix, donor.state_dict())?;
        Ok(Part { origin, folder, donor, pieces, dropped })
    }

    /// The name of the component for people.
    pub(super) fn text(&self) -> &'static str {
        text(self.folder)
    }

    /// The component and its marks under the names of a checkpoint.
    pub(super) fn as_checkpoint(&self) -> Result<StateDict> {
        let mut state_dict = StateDict::new();
        for (key, piece) in &self.pieces {
            state_dict.insert(*key, piece.tensor.clone())?;
        }
        for (key, tensor) in self.marks() {
            state_dict.insert(key, tensor.clone())?;
        }
        Ok(state_dict)
    }

    /// The marks of what the UNet predicts, which go with it.
    pub(super) fn marks(&self) -> impl Iterator<Item = (&str, &LazyTensor)> {
        let is_unet = self.folder == Folder::Unet;
        self.donor.state_dict().iter().filter(move |(key, _)| is_unet && is_mark_key(key))
    }

    /// Records the tensors of the file that are not used.
    pub(super) fn record_dropped(&self, ledger: &mut Ledger) {
        for (key, reason) in &self.dropped {
            ledger.dropped(self.origin, key, *reason);
        }
        for unreadable in self.donor.stored().unreadable() {
            ledger.dropped(self.origin, &unreadable.key, DropReason::NotInPart);
        }
    }

    /// The key in the file of a tensor, or the key that it would have in LDM names.
    pub(super) fn stored_key(&self, key: &str) -> String {
        let Some(first) = self.pieces.get(key).and_then(|piece| piece.inputs.first()) else { return key.to_owned() };
        self.donor.translation().stored_key(first).unwrap_or(first).to_owned()
    }
}

/// Why a key of a file is not used for a component. Fails if it belongs to the component but is unknown.
fn drop_reason(layout: &Layout, folder: Folder, prefix: &str, key: &str) -> Result<DropReason> {
    let Some(bare) = key.strip_prefix(prefix) else { return Ok(DropReason::NotInPart) };
    let is_text = matches!(folder, Folder::TextEncoder | Folder::TextEncoder2);
    if is_text && UNUSED_BY_TEXT.contains(&bare) {
        return Ok(DropReason::NotInPart);
    }
    if is_text && (layout.is_redundant(folder, bare) || position_ids::is_key(bare)) {
        return Ok(DropReason::RedundantConstant);
    }
    // Without a prefix, other networks of the file have keys of any kind.
    let parts: &[&str] = match folder {
        Folder::Unet => {
            &["input_blocks.", "middle_block.", "output_blocks.", "down_blocks.", "mid_block.", "up_blocks."]
        }
        Folder::Vae => &["encoder.", "decoder."],
        Folder::ImageEncoder => &["visual.", "vision_model."],
        _ => &["text_model.", "encoder.layers.", "transformer.resblocks.", "embeddings."],
    };
    if !prefix.is_empty() || parts.iter().any(|part| bare.starts_with(part)) {
        let found = format!("unknown key: the {} of {} has no such tensor", text(folder), layout.architecture().text());
        return Err(Error::mismatch(found).in_tensor(key));
    }
    Ok(DropReason::NotInPart)
}

/// Returns the prefix of a component in a file. Fails unless exactly one prefix fits.
fn find_prefix<'k>(layout: &Layout, folder: Folder, donor: &'k Checkpoint) -> Result<&'k str> {
    let mut counts: IndexMap<&str, usize> = IndexMap::new();
    for key in donor.state_dict().keys() {
        if let Some((prefix, _)) = spelling::split(layout, folder, key) {
            *counts.entry(prefix).or_default() += 1;
        }
    }
    // A few keys of another network can have the names of this one.
    let most = counts.values().copied().max().unwrap_or(0);
    let found: Vec<&str> = counts.iter().filter(|(_, count)| **count * 2 > most).map(|(prefix, _)| *prefix).collect();
    match found.as_slice() {
        &[only] if most >= 3 => Ok(only),
        [] | [_] => {
            let (name, kind) = (text(folder), file_kind::describe(donor.state_dict()));
            let found = format!("contains no {name} of {}; the file is: {kind}", layout.architecture().text());
            Err(Error::missing(found))
        }
        several => {
            let prefixes = several.iter().map(|prefix| format!("{prefix}…")).collect::<Vec<_>>().join(" and ");
            let found = format!("contains {} networks that could be the {}: {prefixes}", several.len(), text(folder));
            Err(Error::conflict(found))
        }
    }
}

/// Fails if a tensor of the component cannot be read.
fn refuse_unreadable(layout: &Layout, folder: Folder, donor: &Checkpoint) -> Result<()> {
    donor.stored().refuse_unreadable_among(|key| spelling::split(layout, folder, key).is_some())
}

/// The name of a component for people.
pub(super) fn text(folder: Folder) -> &'static str {
    match folder {
        Folder::Unet => "UNet",
        Folder::Vae => "VAE",
        Folder::TextEncoder => "text encoder",
        Folder::TextEncoder2 => "second text encoder",
        Folder::ImageEncoder => "image encoder",
        Folder::ControlNet => "ControlNet",
    }
}

/// The tensors of a component by their key in LDM names, and the other keys of its file with why they are not used.
type Pieces = (IndexMap<&'static str, Piece>, Vec<(String, DropReason)>);

/// Finds the tensors of a component under its prefix.
fn pieces(layout: &'static Layout, folder: Folder, prefix: &str, state_dict: &StateDict) -> Result<Pieces> {
    let mut found: IndexMap<&'static str, Vec<MappedTensor<'_>>> = IndexMap::new();
    let mut dropped = Vec::new();
    for (key, tensor) in state_dict.iter() {
        match spelling::split(layout, folder, key).filter(|(own, _)| *own == prefix) {
            Some((_, mapped)) => {
                found.entry(mapped.key).or_default().push(MappedTensor { mapped, key, tensor });
            }
            None if folder == Folder::Unet && is_mark_key(key) => {}
            None => dropped.push((key.to_owned(), drop_reason(layout, folder, prefix, key)?)),
        }
    }
    let mut pieces = IndexMap::new();
    for schema in layout.ldm_schema(folder) {
        let Some(parts) = found.swap_remove(schema.key.as_str()) else { continue };
        let inputs: Vec<String> = parts.iter().map(|part| part.key.to_owned()).collect();
        let first = inputs.first().or_internal("a tensor of a component has no key")?.clone();
        let (tensor, mut changes) = assemble(parts).map_err(|error| error.in_tensor(&first))?;
        if inputs.as_slice() != [schema.key.as_str()] {
            changes.insert(0, Change::Renamed);
        }
        pieces.insert(schema.key.as_str(), Piece { inputs, tensor, changes });
    }
    Ok((pieces, dropped))
}
