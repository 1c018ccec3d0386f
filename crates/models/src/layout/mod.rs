//! Key layouts: maps each tensor of a checkpoint in LDM names to a diffusers folder, and back.
//!
//! A [`Layout`] is a table of [`Pair`]s, one for each tensor of a diffusers folder, built by walking the network once
//! with both sets of names (`unet.rs`, `control_net.rs`, `vae.rs`, `video.rs`, `clip.rs`,
//! `openclip.rs`, `vision.rs`). Keys are looked up whole, never rewritten
//! piece by piece. The table also holds the spellings of other tools, for reading only:
//!
//! - text encoders without `text_model.`, in checkpoints (NAI) and in folders (transformers 5.6 and newer);
//! - VAE attention as `query`, `key`, `value`, `proj_attn` (older diffusers);
//! - upsamplers with a wrong index in checkpoints, or named as attentions in folders, from converters with that bug;
//! - `text_projection.weight` in OpenCLIP, not transposed, as diffusers' SDXL script writes it;
//! - the SD v2 text encoder under `conditioner.embedders.0.model.` (SD-Turbo).
//!
//! A 1x1 convolution and a linear layer differ in rank; see [`Mapped::fit`].

mod clip;
mod control_net;
mod folder;
mod openclip;
pub(crate) mod shapes;
mod sizes;
mod table;
pub(crate) mod text_keys;
mod transform;
mod transformer;
mod unet;
mod vae;
mod video;
mod vision;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::family::Architecture;
pub use folder::Folder;
pub(crate) use folder::IMAGE_ENCODER_PREFIX;
use sizes::Sizes;
pub use table::{Pair, TensorSchema};
pub(crate) use transform::with_rank;
pub use transform::{Qkv, Transform};
pub(super) use unet::Structure as UnetStructure;

/// Returns whether a model must have this tensor, by its key in either layout. Everything is needed but the shortcut
/// convolution of a residual block whose input and output have the same number of channels: narrow models have such
/// blocks where published models do not.
pub(crate) fn is_needed(key: &str, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> bool {
    const SHORTCUTS: &[(&str, &str)] = &[
        (".skip_connection.", ".in_layers.2.weight"),
        (".nin_shortcut.", ".conv1.weight"),
        (".conv_shortcut.", ".conv1.weight"),
    ];
    let shortcut =
        SHORTCUTS.iter().find_map(|(shortcut, convolution)| Some((key.split_once(shortcut)?.0, convolution)));
    let Some((block, convolution)) = shortcut else { return true };
    let channels = dims(&format!("{block}{convolution}"));
    channels.is_none_or(|dims| match dims.as_slice() {
        [output, input, ..] => output != input,
        _ => true,
    })
}

/// Returns the tensors of a VAE (kl-f8) with these widths, the highest resolution first, in the order of a checkpoint.
/// Images have 3 channels and latents 4, as in every Stable Diffusion.
pub(crate) fn vae_pairs(widths: [u64; 4]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    vae::add(&mut pairs, &sizes::Vae { image: 3, latent: 4, widths }, false);
    pairs
}

/// The destination of a tensor in the other layout, and its transform on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// The component.
    pub folder: Folder,
    /// The key in the other layout.
    pub key: &'a str,
    /// The dimensions there in the published model; see [`Layout::measured`] for models of other widths.
    pub dims: &'a [u64],
    /// How the elements move.
    pub transform: Transform,
    /// Whether folders hold the diffusers tensor; see [`Pair::in_folder`].
    pub in_folder: bool,
}

impl Mapped<'_> {
    /// Returns the dimensions that a tensor of `dims` gets: transformed, then with trailing ones added or removed where
    /// a 1x1 convolution replaces a linear layer or the reverse. `None` if the tensor does not fit.
    ///
    /// Widths are taken from `dims`; they need not be those of the published model.
    pub fn fit(&self, dims: &[u64]) -> Option<Vec<u64>> {
        match self.transform {
            Transform::None => with_rank(dims, self.dims.len()),
            // None of these is a convolution.
            Transform::Transpose | Transform::Split(_) | Transform::Join(_) => {
                self.transform.dims(dims).filter(|dims| dims.len() == self.dims.len())
            }
        }
    }
}

/// The table of one architecture, with lookup in both directions.
#[derive(Debug)]
pub struct Layout {
    architecture: Architecture,
    pairs: Vec<Pair>,
    by_ldm: HashMap<String, Vec<(usize, Transform)>>,
    by_diffusers: HashMap<Folder, HashMap<String, usize>>,
}

/// Counts the consecutive indices of layers or blocks that a model has, from 0. Looks at 100 at most: more than any model has.
pub(crate) fn count(has: impl FnMut(&usize) -> bool) -> usize {
    const MOST: usize = 100;
    (0..MOST).take_while(has).count()
}

static SD1: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Sd1));
static SD2: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Sd2));
static SDXL_BASE: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::SdxlBase));
static SDXL_REFINER: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::SdxlRefiner));
static SSD_1B: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Ssd1b));
static VEGA: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Vega));
static STABLE_VIDEO: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::StableVideo));

impl Layout {
    /// Returns the layout of an architecture, with the dimensions of the published models.
    pub fn of(architecture: Architecture) -> &'static Layout {
        match architecture {
            Architecture::Sd1 => &SD1,
            Architecture::Sd2 => &SD2,
            Architecture::SdxlBase => &SDXL_BASE,
            Architecture::SdxlRefiner => &SDXL_REFINER,
            Architecture::Ssd1b => &SSD_1B,
            Architecture::Vega => &VEGA,
            Architecture::StableVideo => &STABLE_VIDEO,
        }
    }

    fn published(architecture: Architecture) -> Layout {
        Layout::new(architecture, &Sizes::published(architecture))
    }

    /// Returns the layout with the widths of a given model in LDM names, read off a few of its tensors by key. A missing
    /// tensor leaves the published size. The keys do not depend on the widths.
    pub fn measured(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Layout {
        let published = Layout::of(architecture);
        let sizes = Sizes::measured(architecture, &|key| published.pair_of_ldm(key)?.ldm_spellings().find_map(dims));
        Layout::new(architecture, &sizes)
    }

    /// Like [`Layout::measured`], for a model in a diffusers folder.
    pub fn measured_in_folder(architecture: Architecture, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Layout {
        let published = Layout::of(architecture);
        let sizes = Sizes::measured(architecture, &|key| {
            let pair = published.pair_of_ldm(key)?;
            let found = pair.diffusers_spellings().find_map(|key| dims(pair.folder, key))?;
            pair.transform.inverse().dims(&found)
        });
        Layout::new(architecture, &sizes)
    }

    /// Returns the layout of a model in a folder whose UNet has other numbers of blocks than the published models of its
    /// architecture. `dims` returns the dimensions of the UNet's tensors. Only the ranks of the layout's dimensions are those
    /// of the model.
    pub fn of_structure(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Layout {
        let structure = UnetStructure::measured(dims);
        let mut sizes = Sizes::published(architecture);
        sizes.unet.widths = sizes.unet.widths.with_levels(structure.depths.len());
        Layout::with(architecture, &structure, &sizes)
    }

    /// Returns whether a UNet in a folder has the residual blocks of this layout. The layout gives blocks of others wrong names.
    pub fn has_blocks_of(&self, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> bool {
        UnetStructure::is_of(self.architecture, dims)
    }

    fn new(architecture: Architecture, sizes: &Sizes) -> Layout {
        Layout::with(architecture, &UnetStructure::of(architecture), sizes)
    }

    fn with(architecture: Architecture, structure: &UnetStructure, sizes: &Sizes) -> Layout {
        let mut pairs = Vec::new();
        unet::add(&mut pairs, structure, &sizes.unet);
        if Folder::ControlNet.ldm_prefix(architecture).is_some() {
            control_net::add(&mut pairs, structure, &sizes.control);
        }
        vae::add(&mut pairs, &sizes.vae, structure.video);
        match architecture {
            Architecture::Sd1 => {
                let prefixes = ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."];
                clip::add(&mut pairs, &prefixes, sizes.text_encoder);
            }
            Architecture::Sd2 => openclip::add(&mut pairs, &openclip::VIT_H, sizes.text_encoder),
            Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                let prefixes =
                    ["conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer."];
                clip::add(&mut pairs, &prefixes, sizes.text_encoder);
                let model = openclip::vit_big_g(&["conditioner.embedders.1.model."]);
                openclip::add(&mut pairs, &model, sizes.text_encoder_2);
            }
            Architecture::SdxlRefiner => {
                let model = openclip::vit_big_g(&["conditioner.embedders.0.model."]);
                openclip::add(&mut pairs, &model, sizes.text_encoder_2);
            }
            Architecture::StableVideo => vision::add(&mut pairs, &sizes.image_encoder),
        }
        Layout::of_pairs(architecture, pairs)
    }

    /// Returns the layout of an image encoder of CLIP alone, under the names that it has in Stable Video Diffusion. `dims`
    /// returns the dimensions of its tensors by their names in transformers.
    pub(crate) fn of_image_encoder(layers: usize, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Layout {
        let mut pairs = Vec::new();
        vision::add(&mut pairs, &sizes::Vision::alone(layers, dims));
        Layout::of_pairs(Architecture::StableVideo, pairs)
    }

    fn of_pairs(architecture: Architecture, pairs: Vec<Pair>) -> Layout {
        let mut by_ldm = HashMap::<String, Vec<(usize, Transform)>>::new();
        let mut by_diffusers = HashMap::<Folder, HashMap<String, usize>>::new();
        for (index, pair) in pairs.iter().enumerate() {
            for (key, transform) in pair.ldm_names() {
                by_ldm.entry(key.to_owned()).or_default().push((index, transform));
            }
            let names = by_diffusers.entry(pair.folder).or_default();
            names.extend(pair.diffusers_spellings().map(|key| (key.to_owned(), index)));
        }
        Layout { architecture, pairs, by_ldm, by_diffusers }
    }

    /// The architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The table, in the order of a checkpoint. The parts of a split tensor follow each other.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Maps a tensor of a checkpoint to diffusers. Returns one destination, three for a fused projection (query, key,
    /// value), and none for a key that the layout does not have.
    pub fn to_diffusers(&self, key: &str) -> impl Iterator<Item = Mapped<'_>> {
        self.by_ldm.get(key).into_iter().flatten().map(|&(index, transform)| {
            let pair = self.pair(index);
            let TensorSchema { key, dims } = &pair.diffusers;
            Mapped { folder: pair.folder, key, dims, transform, in_folder: pair.in_folder }
        })
    }

    /// Maps a tensor of a diffusers component to LDM names; `None` for a key that the layout does not have.
    ///
    /// Three tensors share a destination if the transform is [`Transform::Join`]; [`Layout::to_diffusers`] of that key
    /// lists all three.
    pub fn to_ldm(&self, folder: Folder, key: &str) -> Option<Mapped<'_>> {
        let pair = self.pair_of_diffusers(folder, key)?;
        let TensorSchema { key, dims } = &pair.ldm;
        Some(Mapped { folder, key, dims, transform: pair.transform.inverse(), in_folder: pair.in_folder })
    }

    /// The tensors of a component in LDM names.
    pub fn ldm_schema(&self, folder: Folder) -> impl Iterator<Item = &TensorSchema> {
        let first = |pair: &&Pair| !matches!(pair.transform, Transform::Split(Qkv::Key | Qkv::Value));
        self.pairs.iter().filter(move |pair| pair.folder == folder).filter(first).map(|pair| &pair.ldm)
    }

    /// The tensors of a component as folders hold them.
    pub fn diffusers_schema(&self, folder: Folder) -> impl Iterator<Item = &TensorSchema> {
        self.pairs.iter().filter(move |pair| pair.folder == folder && pair.in_folder).map(|pair| &pair.diffusers)
    }

    /// Returns whether a key that [`Layout::to_ldm`] does not map is a redundant constant: the position_ids, 0 to 76,
    /// that transformers before 4.31 saved with every text encoder and OpenCLIP does not have.
    pub fn is_redundant(&self, folder: Folder, key: &str) -> bool {
        matches!(folder, Folder::TextEncoder | Folder::TextEncoder2)
            && clip::POSITION_IDS.contains(&key)
            && self.to_ldm(folder, key).is_none()
    }

    /// Returns whether a tensor of a folder has LDM names, or needs none.
    pub(super) fn has_place(&self, folder: Folder, key: &str) -> bool {
        self.to_ldm(folder, key).is_some() || self.is_redundant(folder, key)
    }

    /// Returns the tensor of a diffusers component.
    pub(super) fn pair_of_diffusers(&self, folder: Folder, key: &str) -> Option<&Pair> {
        Some(self.pair(*self.by_diffusers.get(&folder)?.get(key)?))
    }

    pub(super) fn pair_of_ldm(&self, key: &str) -> Option<&Pair> {
        Some(self.pair(self.by_ldm.get(key)?.first()?.0))
    }

    #[expect(clippy::indexing_slicing, reason = "the indices come from enumerating `pairs`, which never changes")]
    fn pair(&self, index: usize) -> &Pair {
        &self.pairs[index]
    }
}
