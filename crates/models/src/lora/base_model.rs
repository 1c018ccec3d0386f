//! The weights of a model by the names of modules in LoRAs.

use std::collections::HashMap;

use super::adapted::{AdaptedNetwork, Place};
use super::modules::Modules;
use super::places::LoraPlaces;
use crate::FileKind;
use crate::checkpoint::Checkpoint;
use crate::detection::detect;
use crate::family::Architecture;
use crate::file_kind::Identity;
use crate::layout::{Folder, Layout};
use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

/// A model that LoRAs are checked against. No tensor is read.
#[derive(Debug)]
pub struct BaseModel {
    pub(super) path: String,
    pub(super) identity: Identity,
    pub(super) architecture: Option<Architecture>,
    /// In LDM names, or in those of the file if it has none.
    state_dict: StateDict,
    places: LoraPlaces,
    modules: Option<Modules>,
    /// The keys of other models, by the text encoder that they belong to and the name of the module in kohya's spelling.
    others: HashMap<(Option<AdaptedNetwork>, String), String>,
}

/// A module of a model.
#[derive(Debug)]
pub(super) struct Found {
    /// The key of the weight.
    pub(super) key: String,
    /// The dimensions of the weight; `None` if it is quantized to a packed form.
    pub(super) dims: Option<Vec<u64>>,
    /// The key and the dimensions of the bias.
    pub(super) bias: Option<(String, Vec<u64>)>,
    /// Whether WebUI finds the module.
    pub(super) is_in_webui: bool,
}

/// How the keys of a network begin in files and folders of models that this program does not translate, and which text encoder
/// the network is.
const PREFIXES: &[(&str, Option<AdaptedNetwork>)] = &[
    ("model.diffusion_model.", None),
    ("diffusion_model.", None),
    ("transformer/", None),
    ("transformer.", None),
    ("unet/", None),
    ("unet.", None),
    ("text_encoders.clip_l.transformer.", Some(AdaptedNetwork::TextEncoder)),
    ("text_encoders.clip_g.transformer.", Some(AdaptedNetwork::TextEncoder2)),
    ("text_encoders.t5xxl.transformer.", Some(AdaptedNetwork::TextEncoder3)),
    ("text_encoder/", Some(AdaptedNetwork::TextEncoder)),
    ("text_encoder_2/", Some(AdaptedNetwork::TextEncoder2)),
    ("text_encoder_3/", Some(AdaptedNetwork::TextEncoder3)),
    ("", None),
];

/// Returns the dimensions of a weight; `None` for numbers that are packed into others.
fn dims(tensor: &LazyTensor) -> Option<Vec<u64>> {
    let is_plain = tensor.dtype().is_float() || tensor.dtype() == Dtype::I8;
    is_plain.then(|| tensor.shape().dims().to_vec())
}

impl BaseModel {
    /// Returns the weights of a checkpoint, or of a diffusion model or text encoder alone, by the names of modules in LoRAs.
    ///
    /// Fails if the file is something else, such as a VAE or a LoRA.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        use FileKind::{Checkpoint as Whole, DiffusionModel, OtherCheckpoint, Parts, Unet, Unknown};
        let in_ldm_names = checkpoint.in_ldm_names();
        // The state dict of a folder with parts that Stable Diffusion lacks keeps the names of the folder.
        let of_structure = checkpoint.to_render().ok().filter(|_| !checkpoint.has_ldm_names());
        let state_dict = of_structure.map_or_else(|| in_ldm_names.state_dict().clone(), |it| it.into_owned());
        let identity = Identity::of(&state_dict);
        let is_model = matches!(identity.kind, Whole | OtherCheckpoint | Unet | DiffusionModel | Parts | Unknown);
        if !is_model && !identity.kind.is_text_encoder() || state_dict.is_empty() {
            let found = format!("expected a model that LoRAs are for; the file is: {}", identity.to_text());
            return Err(Error::unsupported(found).in_file(checkpoint.path()));
        }
        let architecture = detect(&state_dict).architecture();
        let others = match architecture {
            Some(_) => HashMap::new(),
            None => others(&state_dict),
        };
        Ok(BaseModel {
            path: checkpoint.path().to_string_lossy().into_owned(),
            identity,
            architecture,
            places: LoraPlaces::of(&state_dict),
            modules: architecture.map(Modules::of),
            others,
            state_dict,
        })
    }

    /// What the model is, for people.
    pub(super) fn text(&self) -> Option<&'static str> {
        self.identity.model.map(|model| model.text()).or_else(|| self.architecture.map(Architecture::text))
    }

    /// Returns whether the model has a network; `None` if its keys do not tell.
    pub(super) fn has(&self, network: AdaptedNetwork) -> Option<bool> {
        let folder = match network {
            AdaptedNetwork::Unet => Folder::Unet,
            AdaptedNetwork::TextEncoder => Folder::TextEncoder,
            AdaptedNetwork::TextEncoder2 => Folder::TextEncoder2,
            AdaptedNetwork::TextEncoder3 => return self.architecture.map(|_| false),
            AdaptedNetwork::DiffusionModel | AdaptedNetwork::Unknown => return None,
        };
        let prefix = folder.ldm_prefix(self.architecture?);
        Some(prefix.is_some_and(|prefix| self.state_dict.keys().any(|key| key.starts_with(prefix))))
    }

    /// Returns the modules with these names in kohya's spelling, and the places that the names tell. `None` for those that the
    /// model lacks.
    pub(super) fn find<'m>(
        &self,
        modules: impl Iterator<Item = (&'m str, &'m Place<'m>)> + Clone,
    ) -> Vec<Option<Found>> {
        let in_webui = self.places.find(modules.clone().map(|(module, _)| module));
        let find = |((module, place), in_webui): ((&str, &Place<'_>), Option<super::LoraPlace>)| {
            let Some(found) = in_webui else { return self.of_layout(module).or_else(|| self.of_others(module, place)) };
            let mut dims = self.state_dict.get(&found.key).and_then(dims);
            if let (Some(rows), Some(first)) = (&found.rows, dims.as_mut().and_then(|dims| dims.first_mut())) {
                *first = rows.len() as u64;
            }
            Some(Found { key: found.key, dims, bias: found.bias.and_then(|key| self.bias(key)), is_in_webui: true })
        };
        modules.zip(in_webui).map(find).collect()
    }

    fn bias(&self, key: String) -> Option<(String, Vec<u64>)> {
        let dims = self.state_dict.get(&key)?.shape().dims().to_vec();
        Some((key, dims))
    }

    /// Finds a module of a known architecture by its names in diffusers and the original code.
    fn of_layout(&self, module: &str) -> Option<Found> {
        let layout = Layout::of(self.architecture?);
        // LyCORIS's own wrapper has the names of diffusers, without the network.
        let of_lycoris = module.strip_prefix("lycoris_").map(|rest| format!("lora_unet_{rest}"));
        let (module, _) = self.modules.as_ref()?.find(of_lycoris.as_deref().unwrap_or(module))?;
        let find = |leaf: &str| {
            let pair = layout.pair_of_diffusers(module.network, &format!("{}.{leaf}", module.name))?;
            let (key, transform) = pair.ldm_names().find(|(key, _)| self.state_dict.contains(key))?;
            Some((key.to_owned(), transform))
        };
        let (key, transform) = find("weight")?;
        let dims = self.state_dict.get(&key).and_then(dims).and_then(|dims| transform.dims(&dims));
        let bias = find("bias").and_then(|(key, transform)| {
            let (key, dims) = self.bias(key)?;
            Some((key, transform.dims(&dims)?))
        });
        Some(Found { key, dims, bias, is_in_webui: false })
    }

    /// Finds a module of another model, whose LoRAs have the names of its file.
    fn of_others(&self, module: &str, place: &Place<'_>) -> Option<Found> {
        use AdaptedNetwork::{TextEncoder, TextEncoder2, TextEncoder3};
        let network = Some(place.network).filter(|it| matches!(it, TextEncoder | TextEncoder2 | TextEncoder3));
        let find = |name: &str| self.others.get(&(network, name.to_owned()));
        let key = find(place.layer).or_else(|| find(module))?;
        let dims = dims(self.state_dict.get(key)?);
        let bias = key.strip_suffix("weight").and_then(|module| self.bias(format!("{module}bias")));
        Some(Found { key: key.clone(), dims, bias, is_in_webui: false })
    }
}

/// Returns the weights of a model without a key layout, by their names in the file.
fn others(state_dict: &StateDict) -> HashMap<(Option<AdaptedNetwork>, String), String> {
    let weight = |key: &str| {
        let module = key.strip_suffix(".weight")?;
        let (network, rest) = PREFIXES.iter().find_map(|(prefix, it)| Some((*it, module.strip_prefix(prefix)?)))?;
        Some(((network, rest.replace('.', "_")), key.to_owned()))
    };
    state_dict.keys().filter_map(weight).collect()
}
