use super::{Change, Folder};

/// A tensor of a schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Its key.
    pub key: String,
    /// Its dimensions.
    pub dims: Vec<u64>,
}

/// A tensor of a diffusers component, and the one it is made of in LDM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The component.
    pub folder: Folder,
    /// In LDM names. Three pairs in a row share it where it is a fused projection.
    pub ldm: Tensor,
    /// In diffusers' names.
    pub diffusers: Tensor,
    /// What makes the diffusers tensor of the one in LDM names.
    pub change: Change,
    /// Whether folders hold the tensor. Some do not fit into one: CLIP's scale and numbers of positions, and of SD v2
    /// the last layer and the projection, which no model uses. Read they are all the same, where a folder has them.
    pub in_folder: bool,
    ldm_too: Vec<(String, Change)>,
    diffusers_too: Vec<String>,
}

impl Pair {
    /// All keys in LDM names, the written one first, each with its change.
    pub(super) fn ldm_names(&self) -> impl Iterator<Item = (&str, Change)> {
        let others = self.ldm_too.iter().map(|(key, change)| (key.as_str(), *change));
        std::iter::once((self.ldm.key.as_str(), self.change)).chain(others)
    }

    /// All keys in LDM names under which files have it, the written one first.
    pub fn ldm_spellings(&self) -> impl Iterator<Item = &str> {
        self.ldm_names().map(|(key, _)| key)
    }

    /// All keys in diffusers' names under which folders have it, the written one first.
    pub fn diffusers_spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.diffusers.key).chain(&self.diffusers_too).map(String::as_str)
    }
}

/// The prefixes of a component's keys on both sides, the written one first.
#[derive(Clone, Copy)]
pub(super) struct Prefixes<'a> {
    pub(super) folder: Folder,
    pub(super) ldm: &'a [&'a str],
    pub(super) diffusers: &'a [&'a str],
}

/// The pairs while they are written down.
pub(super) struct Table {
    pairs: Vec<Pair>,
}

impl Table {
    pub(super) fn new() -> Self {
        Table { pairs: Vec::new() }
    }

    pub(super) fn into_pairs(self) -> Vec<Pair> {
        self.pairs
    }

    /// Adds a tensor by its names on both sides, the written ones first, and its dimensions in LDM names.
    pub(super) fn tensor(&mut self, row: Row<'_>) {
        let Row { prefixes, ldm, ldm_changed, diffusers, change, dims, in_folder } = row;
        // Every name under every prefix: who leaves out `text_model.` does so for all keys.
        let keys = |prefixes: &[&str], names: &[&str]| -> Vec<String> {
            prefixes.iter().flat_map(|prefix| names.iter().map(move |name| format!("{prefix}{name}"))).collect()
        };
        let changed = keys(prefixes.ldm, ldm_changed).into_iter().map(|key| (key, Change::None));
        let mut ldm = keys(prefixes.ldm, ldm).into_iter();
        let mut diffusers = keys(prefixes.diffusers, diffusers).into_iter();
        self.pairs.push(Pair {
            folder: prefixes.folder,
            ldm: Tensor { key: ldm.next().unwrap_or_default(), dims: dims.to_vec() },
            diffusers: Tensor {
                key: diffusers.next().unwrap_or_default(),
                dims: change.dims(dims).unwrap_or_default(),
            },
            change,
            in_folder,
            ldm_too: ldm.map(|key| (key, change)).chain(changed).collect(),
            diffusers_too: diffusers.collect(),
        });
    }

    /// Adds a layer's weight and its bias, which has as many elements as the weight has rows.
    pub(super) fn layer(&mut self, layer: Layer<'_>) {
        let Layer { prefixes, ldm, diffusers, weight, diffusers_weight, in_folder } = layer;
        let bias = weight.get(..1).unwrap_or_default();
        for (leaf, dims) in [("weight", weight), ("bias", bias)] {
            let leaves = |names: &[&str]| names.iter().map(|name| format!("{name}.{leaf}")).collect::<Vec<_>>();
            let (ldm, diffusers) = (leaves(ldm), leaves(diffusers));
        }
    }
}
