//! A summary of a LoRA for any model: what it changes, its ranks and scales.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use indexmap::IndexMap;
use serde::Serialize;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{Progress, parallel};
use trinart_ckpt_formats::tensor::LazyTensor;

use super::adapted::{AdaptedNetwork, Place};
use super::kind::kind;
use super::parts::{Parts, modules};
use super::read::{Lora, Part, scalar};
use super::scale::LoraScale;
use super::spectrum::Spectrum;
use super::spelling::LoraNames;
use super::trained;
use crate::checkpoint::Checkpoint;
use crate::file_kind::Model;

/// Threads that compute singular values: each may need 25 MB.
const THREADS: usize = 4;

/// What a LoRA changes, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraSummary {
    /// Whose names the tensors have; `None` for mixed ones, and those of early versions of diffusers.
    pub names: Option<LoraNames>,
    /// The number of modules: the layers that the LoRA changes.
    pub modules: usize,
    /// The networks that the modules belong to.
    pub networks: Vec<LoraNetwork>,
    /// The number of modules of each kind of change: LoRA, LoHa, DoRA.
    pub kinds: IndexMap<&'static str, usize>,
    /// The ranks and alphas, the most common ones first.
    pub scales: Vec<LoraScale>,
    /// The number of modules by their place in a block, such as `attn1_to_q`.
    pub targets: IndexMap<String, usize>,
    /// The number of tensors that belong to no module.
    pub other_tensors: usize,
    /// The model that it was trained on, by the metadata.
    pub base_model: Option<String>,
    /// Claims of the metadata that the tensors contradict, and modules with missing or wrong tensors, in words.
    pub contradictions: Vec<String>,
    /// All modules, if they were requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_list: Option<Vec<LoraModule>>,
}

/// A network that a LoRA changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraNetwork {
    /// The network.
    pub network: AdaptedNetwork,
    /// The number of modules.
    pub modules: usize,
    /// The number of numbered blocks or layers that the modules are in.
    pub blocks: usize,
}

/// A module that a LoRA changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraModule {
    /// The name in kohya's spelling.
    pub module: String,
    /// The kind of change.
    pub kind: &'static str,
    /// The rank; `None` for kinds without ranks.
    pub rank: Option<u64>,
    /// Alpha; `None` if the file has none, and for files elsewhere whose alphas were not read.
    pub alpha: Option<f64>,
    /// The strength of the change, if it was requested; `None` for other kinds of changes than products of two matrices, and
    /// for NaN and infinite values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spectrum: Option<Spectrum>,
}

/// How much of a LoRA is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraReading {
    /// Whether alphas are read: a small tensor for each module.
    pub alphas: bool,
    /// Whether the modules are listed.
    pub modules: bool,
    /// Whether all values are read for singular values.
    pub spectra: bool,
}

impl LoraSummary {
    /// Summarizes a LoRA for this model.
    pub fn read(
        checkpoint: &Checkpoint,
        model: Option<Model>,
        reading: LoraReading,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let state_dict = checkpoint.state_dict();
        let names = LoraNames::of(state_dict.keys());
        let (modules, other_tensors) = modules(checkpoint);
        let mut contradictions = Vec::new();
        let alphas = Alphas::read(checkpoint, reading.alphas);
        let mut list = Vec::new();
        for (module, parts) in &modules {
            contradictions.extend(defect(parts));
            let alpha = alphas.of(parts).unwrap_or_else(|found| {
                contradictions.push(found);
                None
            });
            let kind = kind(parts.iter().map(|(name, part)| (name.as_str(), part.tensor)));
            list.push(LoraModule { module: module.clone(), kind, rank: rank(parts), alpha, spectrum: None });
        }
        if reading.spectra {
            progress.begin("reading", state_dict.bytes());
            let parts: Vec<&Parts<'_>> = modules.values().collect();
            let spectrum = |(): &mut (), parts: &&Parts<'_>| match product(parts) {
                Some((down, up)) => {
                    Spectrum::read(down.tensor, up.tensor, progress).map_err(|error| error.in_tensor(up.key))
                }
                None => Ok(None),
            };
            let found = parallel::map(jobs.min(THREADS), &parts, || (), spectrum)?;
            list.iter_mut().zip(found).for_each(|(module, found)| module.spectrum = found);
        }
        let mut kinds: IndexMap<&'static str, usize> = IndexMap::new();
        list.iter().for_each(|module| *kinds.entry(module.kind).or_default() += 1);
        let scales = scales(&list, modules.values(), reading.alphas);
        contradictions.extend(trained::contradictions(checkpoint.metadata(), model, &scales));
        let places: Vec<Place<'_>> = modules.keys().map(|module| Place::of(module, model, names)).collect();
        Ok(LoraSummary {
            names,
            modules: modules.len(),
            networks: networks(&places),
            kinds,
            scales,
            targets: targets(&places),
            other_tensors,
            base_model: trained::base_model(checkpoint.metadata()),
            contradictions,
            module_list: reading.modules.then_some(list),
        })
    }
}

/// The alphas of a LoRA.
struct Alphas<'a> {
    /// By the key of any tensor of the module, if the model is one whose modules and configurations this program reads.
    known: Option<HashMap<&'a str, Option<f64>>>,
    is_read: bool,
}

impl<'a> Alphas<'a> {
    fn read(checkpoint: &'a Checkpoint, is_read: bool) -> Self {
        let lora = if is_read { Lora::read(checkpoint).ok() } else { None };
        let known = lora.map(|lora| {
            let keys =
                lora.changes.iter().flat_map(|change| change.parts.values().map(|part| (part.key, change.alpha)));
            keys.collect()
        });
        Alphas { known, is_read }
    }

    /// The alpha of a module. Fails with words for a tensor that is not one finite number.
    fn of(&self, parts: &Parts<'_>) -> Result<Option<f64>, String> {
        let known = self.known.as_ref().and_then(|known| parts.values().find_map(|part| known.get(part.key)));
        match (known, parts.get("alpha")) {
            (Some(alpha), _) => Ok(*alpha),
            (None, Some(alpha)) if self.is_read => {
                let found = scalar(alpha.tensor).map_err(|error| error.in_tensor(alpha.key).to_string());
                found.map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// The two matrices whose product is the change; `None` for other kinds.
fn product<'p, 'a>(parts: &'p Parts<'a>) -> Option<(&'p Part<'a>, &'p Part<'a>)> {
    if parts.contains_key("lora_mid.weight") {
        return None;
    }
    Some((parts.get("lora_down.weight")?, parts.get("lora_up.weight")?))
}

/// The tensor that has a row for each rank.
fn of_ranks<'p>(parts: &'p Parts<'_>) -> Option<&'p LazyTensor> {
    let names = ["lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "b1.weight"];
    names.iter().find_map(|name| parts.get(*name)).map(|part| part.tensor)
}

fn rank(parts: &Parts<'_>) -> Option<u64> {
    of_ranks(parts)?.shape().dims().first().copied()
}

/// What a module lacks, or which of its shapes contradict each other, in words.
fn defect(parts: &Parts<'_>) -> Option<String> {
    let pair = ["lora_down.weight", "lora_up.weight"].map(|name| parts.get(name));
    match pair {
        [Some(only), None] | [None, Some(only)] => Some(format!("the module of {} lacks the other matrix", only.key)),
        [Some(down), Some(up)] if !parts.contains_key("lora_mid.weight") => {
            let (ranks, columns) = (down.tensor.shape().dims().first(), up.tensor.shape().dims().get(1));
            let is_wrong = ranks != columns;
            is_wrong.then(|| {
                format!("{} has shape {}, and {} {}", down.key, down.tensor.shape(), up.key, up.tensor.shape())
            })
        }
        _ => None,
    }
}

/// Whether a module is a convolution that looks at more than one pixel.
fn is_convolution(parts: &Parts<'_>) -> bool {
    let kernel = ["lora_down.weight", "lora_mid.weight", "hada_t1", "lokr_w2", "lokr_t2"];
    let is_wide = |part: &Part<'_>| part.tensor.shape().dims().iter().skip(2).any(|size| *size > 1);
    kernel.iter().filter_map(|name| parts.get(*name)).any(is_wide)
}

/// Groups modules by rank, alpha and whether they are convolutions.
fn scales<'p, 'a: 'p>(
    list: &[LoraModule],
    parts: impl Iterator<Item = &'p Parts<'a>>,
    is_alpha_known: bool,
) -> Vec<LoraScale> {
    let mut found: Vec<LoraScale> = Vec::new();
    for (LoraModule { rank, alpha, .. }, parts) in list.iter().zip(parts) {
        let is_convolution = is_convolution(parts);
        let same = |it: &&mut LoraScale| it.rank == *rank && it.alpha == *alpha && it.is_convolution == is_convolution;
        if let Some(scale) = found.iter_mut().find(same) {
            scale.modules += 1;
            continue;
        }
        let scale = match (rank, alpha) {
            (Some(rank), Some(alpha)) if *rank > 0 => Some(alpha / *rank as f64),
            // Without alpha, changes are not scaled.
            (_, None) if is_alpha_known => Some(1.0),
            _ => None,
        };
        found.push(LoraScale { rank: *rank, alpha: *alpha, scale, is_convolution, modules: 1 });
    }
    found.sort_by_key(|scale| std::cmp::Reverse(scale.modules));
    found
}

fn networks(places: &[Place<'_>]) -> Vec<LoraNetwork> {
    let mut found: BTreeMap<AdaptedNetwork, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for place in places {
        let (modules, blocks) = found.entry(place.network).or_default();
        *modules += 1;
        blocks.extend(place.block);
    }
    let network =
        |(network, (modules, blocks)): (_, (_, BTreeSet<&str>))| LoraNetwork { network, modules, blocks: blocks.len() };
    found.into_iter().map(network).collect()
}

fn targets(places: &[Place<'_>]) -> IndexMap<String, usize> {
    let mut found: IndexMap<String, usize> = IndexMap::new();
    for place in places {
        *found.entry(place.target.to_owned()).or_default() += 1;
    }
    found.sort_by(|a, of_a, b, of_b| of_b.cmp(of_a).then_with(|| a.cmp(b)));
    found
}
