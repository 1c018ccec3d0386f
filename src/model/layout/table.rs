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

    /// Another LDM key, with the change that tensors have under that one.
    pub(super) fn also_in_ldm(&mut self, key: String, change: Change) {
        self.ldm_too.push((key, change));
    }

    pub(super) fn not_in_folder(&mut self) {
        self.in_folder = false;
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
    pub(super) fn tensor(
        &mut self,
        prefixes: Prefixes<'_>,
        ldm: &[&str],
        diffusers: &[&str],
        change: Change,
        dims: &[u64],
    ) -> &mut Pair {
        // Every name under every prefix: who leaves out `text_model.` does so for all keys.
        let keys = |prefixes: &[&str], names: &[&str]| {
            prefixes.iter().flat_map(|prefix| names.iter().map(move |name| format!("{prefix}{name}"))).collect()
        };
        let split_first = |mut keys: Vec<String>| (if keys.is_empty() { String::new() } else { keys.remove(0) }, keys);
        let (ldm, ldm_too) = split_first(keys(prefixes.ldm, ldm));
        let (diffusers, diffusers_too) = split_first(keys(prefixes.diffusers, diffusers));
        let changed = change.dims(dims).unwrap_or_default();
        self.pairs.push_mut(Pair {
            folder: prefixes.folder,
            ldm: Tensor { key: ldm, dims: dims.to_vec() },
            diffusers: Tensor { key: diffusers, dims: changed },
            change,
            in_folder: true,
            ldm_too: ldm_too.into_iter().map(|key| (key, change)).collect(),
            diffusers_too,
        })
    }

    /// Adds a layer's weight and its bias, which has as many elements as the weight has rows.
    pub(super) fn layer(&mut self, prefixes: Prefixes<'_>, ldm: &[&str], diffusers: &[&str], weight: &[u64]) {
        let bias = weight.get(..1).unwrap_or_default();
        for (leaf, dims) in [("weight", weight), ("bias", bias)] {
            let ldm: Vec<String> = ldm.iter().map(|name| format!("{name}.{leaf}")).collect();
            let diffusers: Vec<String> = diffusers.iter().map(|name| format!("{name}.{leaf}")).collect();
            let names = |names: &'_ [String]| -> Vec<String> { names.to_vec() };
            let (ldm, diffusers) = (names(&ldm), names(&diffusers));
            let ldm: Vec<&str> = ldm.iter().map(String::as_str).collect();
            let diffusers: Vec<&str> = diffusers.iter().map(String::as_str).collect();
            self.tensor(prefixes, &ldm, &diffusers, Change::None, dims);
        }
    }
}
