//! Key layouts: where each tensor of a checkpoint in LDM names lies in a folder of diffusers, and back.
//!
//! A [`Layout`] is a table of [`Pair`]s, one for each tensor of a diffusers folder, written down by walking a network
//! once under both names (`unet.rs`, `autoencoder.rs`, `clip.rs`, `openclip.rs`). A key is looked up whole; nothing is
//! ever replaced inside of one. Spellings of other tools lie in the same table and are only read:
//!
//! - text encoders without `text_model.`, in LDM names (NAI) and in folders (transformers 5.6 and newer);
//! - an autoencoder's attention as `query`, `key`, `value`, `proj_attn` (older diffusers);
//! - upsamplers under another index in LDM names, and among the attentions in folders, from converters with that bug;
//! - `text_projection.weight` among OpenCLIP's names, not transposed, as diffusers' SDXL script writes it;
//! - SD v2's text encoder under `conditioner.embedders.0.model.` (SD-Turbo).
//!
//! Where a 1x1 convolution stands for a linear layer or the other way round, the ranks tell: see [`Mapped::fit`].

mod autoencoder;
mod change;
mod clip;
mod openclip;
mod sizes;
mod table;
mod unet;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::model::architecture::Architecture;
pub use change::{Change, Third, with_rank};
use sizes::Sizes;
pub use table::{Pair, Tensor};
pub(super) use unet::Structure as UnetStructure;

/// A component of a diffusers folder that holds tensors, by the name of its own folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    /// The denoising network.
    Unet,
    /// The KL autoencoder.
    Vae,
    /// CLIP ViT-L of SD v1 and SDXL, OpenCLIP ViT-H of SD v2.
    TextEncoder,
    /// OpenCLIP ViT-bigG of SDXL, base and refiner.
    TextEncoder2,
}

impl Folder {
    /// All of them.
    pub const ALL: &'static [Folder] = &[Folder::Unet, Folder::Vae, Folder::TextEncoder, Folder::TextEncoder2];

    /// The folders of an architecture. The refiner has the second text encoder alone.
    pub fn of(architecture: Architecture) -> &'static [Folder] {
        match architecture {
            Architecture::Sd1 | Architecture::Sd2 => &[Folder::Unet, Folder::Vae, Folder::TextEncoder],
            Architecture::SdxlBase => Folder::ALL,
            Architecture::SdxlRefiner => &[Folder::Unet, Folder::Vae, Folder::TextEncoder2],
        }
    }

    /// Its name in `model_index.json` and on the disk.
    pub fn name(self) -> &'static str {
        match self {
            Folder::Unet => "unet",
            Folder::Vae => "vae",
            Folder::TextEncoder => "text_encoder",
            Folder::TextEncoder2 => "text_encoder_2",
        }
    }

    /// The folder of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|folder| folder.name() == name)
    }

    /// What its keys begin with in a checkpoint in LDM names; `None` where the architecture has no such component.
    pub fn ldm_prefix(self, architecture: Architecture) -> Option<&'static str> {
        match (self, architecture) {
            (Folder::Unet, _) => Some(unet::PREFIX),
            (Folder::Vae, _) => Some(autoencoder::PREFIX),
            (Folder::TextEncoder, Architecture::Sd1) => Some("cond_stage_model.transformer."),
            (Folder::TextEncoder, Architecture::Sd2) => Some("cond_stage_model.model."),
            (Folder::TextEncoder, Architecture::SdxlBase) => Some("conditioner.embedders.0.transformer."),
            (Folder::TextEncoder2, Architecture::SdxlBase) => Some("conditioner.embedders.1.model."),
            (Folder::TextEncoder2, Architecture::SdxlRefiner) => Some("conditioner.embedders.0.model."),
            (Folder::TextEncoder, Architecture::SdxlRefiner)
            | (Folder::TextEncoder2, Architecture::Sd1 | Architecture::Sd2) => None,
        }
    }
}

/// Whether a model must have this tensor, by its key on either side: a residual block whose channels stay as many has
/// no convolution around it. Narrow models have such blocks where published ones do not.
pub fn is_needed(key: &str, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> bool {
    const SHORTCUTS: &[(&str, &str)] = &[
        (".skip_connection.", ".in_layers.2.weight"),
        (".nin_shortcut.", ".conv1.weight"),
        (".conv_shortcut.", ".conv1.weight"),
    ];
    let shortcut =
        SHORTCUTS.iter().find_map(|(shortcut, convolution)| Some((key.split_once(shortcut)?.0, convolution)));
    let Some((block, convolution)) = shortcut else { return true };
    let channels = dims(&format!("{block}{convolution}"));
    channels.as_deref().and_then(|dims| Some(dims.first()? != dims.get(1)?)).unwrap_or(true)
}

/// Where a tensor goes, and what becomes of it on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// The component, under diffusers' name.
    pub folder: Folder,
    /// The key it gets.
    pub key: &'a str,
    /// The dimensions the layout has there, after the change; see [`Layout::measured`] for models of other widths.
    pub dims: &'a [u64],
    /// What becomes of its elements.
    pub change: Change,
    /// Whether folders hold the diffusers tensor of this pair, see [`Pair::in_folder`].
    pub in_folder: bool,
}

impl Mapped<'_> {
    /// The dimensions that a tensor of `dims` gets: those after the change, and then ones added or dropped at the end
    /// where a 1x1 convolution stands for a linear layer or the other way round. `None` where that cannot be.
    ///
    /// The widths are the tensor's own. Whether they are those of the layout is not asked here.
    pub fn fit(&self, dims: &[u64]) -> Option<Vec<u64>> {
        match self.change {
            Change::None => with_rank(dims, self.dims.len()),
            // Rows and columns: there is no convolution among these.
            Change::Transpose | Change::Split(_) | Change::Join(_) => {
                self.change.dims(dims).filter(|dims| dims.len() == self.dims.len())
            }
        }
    }
}

/// The table of one architecture, to be looked up from both sides.
#[derive(Debug)]
pub struct Layout {
    architecture: Architecture,
    pairs: Vec<Pair>,
    by_ldm: HashMap<String, Vec<(usize, Change)>>,
    by_diffusers: HashMap<Folder, HashMap<String, usize>>,
}

static SD1: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Sd1));
static SD2: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::Sd2));
static SDXL_BASE: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::SdxlBase));
static SDXL_REFINER: LazyLock<Layout> = LazyLock::new(|| Layout::published(Architecture::SdxlRefiner));

impl Layout {
    /// The layout of an architecture, with the dimensions of the published models.
    pub fn of(architecture: Architecture) -> &'static Layout {
        match architecture {
            Architecture::Sd1 => &SD1,
            Architecture::Sd2 => &SD2,
            Architecture::SdxlBase => &SDXL_BASE,
            Architecture::SdxlRefiner => &SDXL_REFINER,
        }
    }

    fn published(architecture: Architecture) -> Layout {
        Layout::new(architecture, &Sizes::published(architecture))
    }

    /// The layout of a model in LDM names with that model's own widths, read off a few of its tensors by key. What is
    /// not there has the published size. Keys are the same for all widths.
    pub fn measured(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Layout {
        let published = Layout::of(architecture);
        let sizes = Sizes::measured(architecture, &|key| published.pair_of_ldm(key)?.ldm_spellings().find_map(dims));
        Layout::new(architecture, &sizes)
    }

    /// As [`Layout::measured`], for a model in a diffusers folder.
    pub fn measured_in_folder(architecture: Architecture, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Layout {
        let published = Layout::of(architecture);
        let sizes = Sizes::measured(architecture, &|key| {
            let pair = published.pair_of_ldm(key)?;
            let found = pair.diffusers_spellings().find_map(|key| dims(pair.folder, key))?;
            pair.change.inverse().dims(&found)
        });
        Layout::new(architecture, &sizes)
    }

    fn new(architecture: Architecture, sizes: &Sizes) -> Layout {
        let mut pairs = Vec::new();
        unet::add(&mut pairs, &UnetStructure::of(architecture), &sizes.unet);
        autoencoder::add(&mut pairs, &sizes.autoencoder);
        match architecture {
            Architecture::Sd1 => {
                let prefixes = ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."];
                clip::add(&mut pairs, &prefixes, sizes.text_encoder);
            }
            Architecture::Sd2 => openclip::add(&mut pairs, &openclip::VIT_H, sizes.text_encoder),
            Architecture::SdxlBase => {
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
        }
        let mut by_ldm = HashMap::<String, Vec<(usize, Change)>>::new();
        let mut by_diffusers = HashMap::<Folder, HashMap<String, usize>>::new();
        for (index, pair) in pairs.iter().enumerate() {
            for (key, change) in pair.ldm_names() {
                by_ldm.entry(key.to_owned()).or_default().push((index, change));
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

    /// The table: in the order of a checkpoint, the parts of a split tensor next to each other.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Where a tensor of a checkpoint goes: one place, three for a fused projection (the parts in order), none for a
    /// key that the layout does not have.
    pub fn to_diffusers(&self, key: &str) -> impl Iterator<Item = Mapped<'_>> {
        self.by_ldm.get(key).into_iter().flatten().filter_map(|&(index, change)| {
            let pair = self.pairs.get(index)?;
            let Tensor { key, dims } = &pair.diffusers;
            Some(Mapped { folder: pair.folder, key, dims, change, in_folder: pair.in_folder })
        })
    }

    /// Where a tensor of a diffusers component goes; `None` for a key that the layout does not have.
    ///
    /// Three tensors go to one place where the change is [`Change::Join`]; [`Layout::to_diffusers`] of the key they
    /// get names all three.
    pub fn to_ldm(&self, folder: Folder, key: &str) -> Option<Mapped<'_>> {
        let pair = self.pairs.get(*self.by_diffusers.get(&folder)?.get(key)?)?;
        let Tensor { key, dims } = &pair.ldm;
        Some(Mapped { folder, key, dims, change: pair.change.inverse(), in_folder: pair.in_folder })
    }

    /// The tensors of a component in LDM names.
    pub fn ldm_schema(&self, folder: Folder) -> impl Iterator<Item = &Tensor> {
        let first = |pair: &&Pair| !matches!(pair.change, Change::Split(Third::Key | Third::Value));
        self.pairs.iter().filter(move |pair| pair.folder == folder).filter(first).map(|pair| &pair.ldm)
    }

    /// The tensors of a component as a folder holds them.
    pub fn diffusers_schema(&self, folder: Folder) -> impl Iterator<Item = &Tensor> {
        self.pairs.iter().filter(move |pair| pair.folder == folder && pair.in_folder).map(|pair| &pair.diffusers)
    }

    /// Whether a key that [`Layout::to_ldm`] does not know says nothing: the numbers of the positions, 0 to 76, that
    /// transformers before 4.31 saved with every text encoder and OpenCLIP does not have.
    pub fn is_redundant(&self, folder: Folder, key: &str) -> bool {
        matches!(folder, Folder::TextEncoder | Folder::TextEncoder2)
            && clip::POSITION_IDS.contains(&key)
            && self.to_ldm(folder, key).is_none()
    }

    fn pair_of_ldm(&self, key: &str) -> Option<&Pair> {
        self.pairs.get(self.by_ldm.get(key)?.first()?.0)
    }
}
