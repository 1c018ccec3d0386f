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
    /// Whether folders hold the tensor. A few have no place in one: CLIP's scale and the numbers of its positions,
    /// and of SD v2 the last layer and the projection, which images are made without. Where a folder has them they
    /// are read.
    pub in_folder: bool,
    ldm_too: Vec<(String, Change)>,
    diffusers_too: Vec<String>,
}

impl Pair {
    /// All keys in LDM names, the written one first, each with what makes the diffusers tensor of it.
    pub(super) fn ldm_names(&self) -> impl Iterator<Item = (&str, Change)> {
        let others = self.ldm_too.iter().map(|(key, change)| (key.as_str(), *change));
        std::iter::once((self.ldm.key.as_str(), self.change)).chain(others)
    }

    /// All keys under which checkpoints have it, the written one first.
    pub fn ldm_spellings(&self) -> impl Iterator<Item = &str> {
        self.ldm_names().map(|(key, _)| key)
    }

    /// All keys under which folders have it, the written one first.
    pub fn diffusers_spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.diffusers.key).chain(&self.diffusers_too).map(String::as_str)
    }
}

/// A row of the table, without prefixes.
pub(super) struct Row<'a> {
    /// The names in LDM, the written one first.
    pub(super) ldm: &'a [&'a str],
    /// Names in LDM under which it needs no change.
    pub(super) ldm_unchanged: &'a [&'a str],
    /// The names in diffusers, the written one first.
    pub(super) diffusers: &'a [&'a str],
    /// The dimensions in LDM.
    pub(super) dims: &'a [u64],
    /// The dimensions in diffusers, where ones are added or dropped.
    pub(super) diffusers_dims: Option<&'a [u64]>,
    pub(super) change: Change,
    pub(super) in_folder: bool,
}

impl<'a> Row<'a> {
    /// A tensor that is the same on both sides.
    pub(super) fn new(ldm: &'a [&'a str], diffusers: &'a [&'a str], dims: &'a [u64]) -> Self {
        let change = Change::None;
        Row { ldm, ldm_unchanged: &[], diffusers, dims, diffusers_dims: None, change, in_folder: true }
    }
}

/// Writes down the pairs of one component.
pub(super) struct Component<'a> {
    pub(super) pairs: &'a mut Vec<Pair>,
    pub(super) folder: Folder,
    /// The prefixes in LDM, the written one first.
    pub(super) ldm: &'a [&'a str],
    /// The prefixes in diffusers, the written one first.
    pub(super) diffusers: &'a [&'a str],
}

impl Component<'_> {
    /// Adds a tensor.
    pub(super) fn tensor(&mut self, row: Row<'_>) {
        // Every name under every prefix: who leaves out `text_model.` does so for all keys.
        let keys = |prefixes: &[&str], names: &[&str]| -> Vec<String> {
            prefixes.iter().flat_map(|prefix| names.iter().map(move |name| format!("{prefix}{name}"))).collect()
        };
        let unchanged = keys(self.ldm, row.ldm_unchanged).into_iter().map(|key| (key, Change::None));
        let mut ldm = keys(self.ldm, row.ldm).into_iter();
        let mut diffusers = keys(self.diffusers, row.diffusers).into_iter();
        let changed = row.diffusers_dims.map(<[u64]>::to_vec).or_else(|| row.change.dims(row.dims));
        self.pairs.push(Pair {
            folder: self.folder,
            ldm: Tensor { key: ldm.next().unwrap_or_default(), dims: row.dims.to_vec() },
            diffusers: Tensor { key: diffusers.next().unwrap_or_default(), dims: changed.unwrap_or_default() },
            change: row.change,
            in_folder: row.in_folder,
            ldm_too: ldm.map(|key| (key, row.change)).chain(unchanged).collect(),
            diffusers_too: diffusers.collect(),
        });
    }

    /// Adds a layer's weight, which is `row`, and its bias, which has as many elements as the weight has rows.
    pub(super) fn layer_of(&mut self, row: Row<'_>) {
        let leaves = |names: &[&str], leaf: &str| names.iter().map(|name| format!("{name}.{leaf}")).collect::<Vec<_>>();
        for (leaf, dims, diffusers_dims) in
            [("weight", row.dims, row.diffusers_dims), ("bias", row.dims.get(..1).unwrap_or_default(), None)]
        {
            let (ldm, diffusers) = (leaves(row.ldm, leaf), leaves(row.diffusers, leaf));
            let ldm: Vec<&str> = ldm.iter().map(String::as_str).collect();
            let diffusers: Vec<&str> = diffusers.iter().map(String::as_str).collect();
            self.tensor(Row { ldm: &ldm, diffusers: &diffusers, dims, diffusers_dims, ..row });
        }
    }

    /// Adds a layer of one name on each side.
    pub(super) fn layer(&mut self, ldm: &str, diffusers: &str, weight: &[u64]) {
        self.layer_of(Row::new(&[ldm], &[diffusers], weight));
    }
}
