use super::folder::Folder;
use super::transform::Transform;

/// A tensor of a schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorSchema {
    /// The key.
    pub key: String,
    /// The dimensions.
    pub dims: Vec<u64>,
}

/// A tensor of a diffusers component, and its counterpart in LDM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The component.
    pub folder: Folder,
    /// The tensor in LDM names. Three consecutive pairs share a fused projection.
    pub ldm: TensorSchema,
    /// The tensor in diffusers names.
    pub diffusers: TensorSchema,
    /// The transform from the LDM tensor to the diffusers tensor.
    pub transform: Transform,
    /// Whether diffusers writes the tensor into folders. It omits CLIP's `logit_scale` and position_ids, and the last
    /// layer and the projection of the SD v2 text encoder, which rendering does not use. They are read if a folder
    /// has them.
    pub in_folder: bool,
    /// Whether checkpoints have the tensor. Those of Stable Video Diffusion lack the `quant_conv` of its VAE.
    pub in_checkpoint: bool,
    ldm_aliases: Vec<(String, Transform)>,
    diffusers_aliases: Vec<String>,
}

impl Pair {
    /// All keys in LDM names, each with its transform to the diffusers tensor. The key to write comes first.
    pub(crate) fn ldm_names(&self) -> impl Iterator<Item = (&str, Transform)> {
        let others = self.ldm_aliases.iter().map(|(key, transform)| (key.as_str(), *transform));
        std::iter::once((self.ldm.key.as_str(), self.transform)).chain(others)
    }

    /// All keys that checkpoints use for the tensor. The key to write comes first.
    pub fn ldm_spellings(&self) -> impl Iterator<Item = &str> {
        self.ldm_names().map(|(key, _)| key)
    }

    /// All keys that folders use for the tensor. The key to write comes first.
    pub fn diffusers_spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.diffusers.key).chain(&self.diffusers_aliases).map(String::as_str)
    }
}

/// A row of the table, without prefixes. The lists of names have at least one entry.
pub(super) struct Row<'a> {
    /// The LDM names. The name to write comes first.
    pub(super) ldm: &'a [&'a str],
    /// LDM names of tensors that are already stored as in diffusers.
    pub(super) ldm_unchanged: &'a [&'a str],
    /// The diffusers names. The name to write comes first.
    pub(super) diffusers: &'a [&'a str],
    /// The LDM dimensions.
    pub(super) dims: &'a [u64],
    /// The diffusers dimensions, if trailing ones are added or removed.
    pub(super) diffusers_dims: Option<&'a [u64]>,
    pub(super) transform: Transform,
    pub(super) in_folder: bool,
    pub(super) in_checkpoint: bool,
}

impl<'a> Row<'a> {
    /// A tensor that is the same in both layouts.
    pub(super) fn new(ldm: &'a [&'a str], diffusers: &'a [&'a str], dims: &'a [u64]) -> Self {
        let transform = Transform::None;
        Row {
            ldm,
            ldm_unchanged: &[],
            diffusers,
            dims,
            diffusers_dims: None,
            transform,
            in_folder: true,
            in_checkpoint: true,
        }
    }
}

/// Adds the pairs of one component to a table.
pub(super) struct PairBuilder<'a> {
    pub(super) pairs: &'a mut Vec<Pair>,
    pub(super) folder: Folder,
    /// The LDM prefixes. The prefix to write comes first.
    pub(super) ldm: &'a [&'a str],
    /// The diffusers prefixes. The prefix to write comes first.
    pub(super) diffusers: &'a [&'a str],
}

impl PairBuilder<'_> {
    /// Adds a tensor.
    #[expect(clippy::expect_used, reason = "the rows are literals of this module, and the tests build every layout")]
    pub(super) fn tensor(&mut self, row: Row<'_>) {
        // Every name under every prefix: files without `text_model.` omit it from all keys.
        let keys = |prefixes: &[&str], names: &[&str]| -> Vec<String> {
            prefixes.iter().flat_map(|prefix| names.iter().map(move |name| format!("{prefix}{name}"))).collect()
        };
        let unchanged = keys(self.ldm, row.ldm_unchanged).into_iter().map(|key| (key, Transform::None));
        let mut ldm = keys(self.ldm, row.ldm).into_iter();
        let mut diffusers = keys(self.diffusers, row.diffusers).into_iter();
        let diffusers_dims = row.diffusers_dims.map(<[u64]>::to_vec).or_else(|| row.transform.dims(row.dims));
        self.pairs.push(Pair {
            folder: self.folder,
            ldm: TensorSchema { key: ldm.next().expect("a row has an LDM name"), dims: row.dims.to_vec() },
            diffusers: TensorSchema {
                key: diffusers.next().expect("a row has a diffusers name"),
                dims: diffusers_dims.expect("the transform of a row fits its dimensions"),
            },
            transform: row.transform,
            in_folder: row.in_folder,
            in_checkpoint: row.in_checkpoint,
            ldm_aliases: ldm.map(|key| (key, row.transform)).chain(unchanged).collect(),
            diffusers_aliases: diffusers.collect(),
        });
    }

    /// Adds the weight `row` of a layer, and its bias, which has one element per row of the weight.
    #[expect(clippy::expect_used, reason = "the rows are literals of this module, and the tests build every layout")]
    pub(super) fn layer_of(&mut self, row: Row<'_>) {
        let leaves = |names: &[&str], leaf: &str| names.iter().map(|name| format!("{name}.{leaf}")).collect::<Vec<_>>();
        let rows = row.dims.get(..1).expect("a weight has rows");
        for (leaf, dims, diffusers_dims) in [("weight", row.dims, row.diffusers_dims), ("bias", rows, None)] {
            let (ldm, diffusers) = (leaves(row.ldm, leaf), leaves(row.diffusers, leaf));
            let ldm: Vec<&str> = ldm.iter().map(String::as_str).collect();
            let diffusers: Vec<&str> = diffusers.iter().map(String::as_str).collect();
            self.tensor(Row { ldm: &ldm, diffusers: &diffusers, dims, diffusers_dims, ..row });
        }
    }

    /// Adds a tensor of one element.
    pub(super) fn scalar(&mut self, ldm: &str, diffusers: &str) {
        self.tensor(Row::new(&[ldm], &[diffusers], &[1]));
    }

    /// Adds a layer that has one name in each layout.
    pub(super) fn layer(&mut self, ldm: &str, diffusers: &str, weight: &[u64]) {
        self.layer_of(Row::new(&[ldm], &[diffusers], weight));
    }
}
