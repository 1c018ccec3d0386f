//! The shape of a change, from the shapes of its tensors.

use super::kind::{DORA_SCALE, MAGNITUDE};
use super::parts::{Parts, dims};

/// What the shapes of a change's tensors tell about the weight that it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    /// The dimensions of the change; those of a kernel may be joined with the input channels.
    Dims(Vec<u64>),
    /// The rows and columns of a change of the center of a kernel of any size, as T-LoRA makes it.
    Center([u64; 2]),
    /// The number of rows, of a change that rotates them.
    Rows(u64),
    /// A factor for each row, or for each column.
    Factors(u64),
}

fn elements(dims: &[u64]) -> u64 {
    dims.iter().fold(1, |product, dim| product.saturating_mul(*dim))
}

/// Returns the dimensions of `a b`; with the core of Tucker, `a` and `b` have a row for each rank. Linear layers and kernels have
/// more dimensions from the second matrix or the core.
fn low_rank(a: &[u64], b: &[u64], core: Option<&[u64]>) -> Option<Vec<u64>> {
    let (first, rest) = match core {
        Some(core) => (*a.get(1)?, [&[*b.get(1)?], core.get(2..)?].concat()),
        None => (*a.first()?, b.get(1..)?.to_vec()),
    };
    Some([&[first], rest.as_slice()].concat())
}

/// Returns the dimensions of GLoRA's change. LyCORIS multiplies `b1 b2`, and earlier versions of it and WebUI `b2 b1`.
fn generalized(first: &[u64], second: &[u64]) -> Option<Vec<u64>> {
    match first.get(1) == second.first() {
        true => low_rank(first, second, None),
        false => low_rank(second, first, None),
    }
}

/// Returns whether a change has the four input channels of Stable Diffusion, and the weight the nine of an inpainting model. The
/// change of the additional ones is zero, in WebUI too.
pub fn lacks_inpainting_channels<N: Copy + PartialEq + From<u8>>(change: &[N], weight: &[N]) -> bool {
    match (change, weight) {
        (&[rows, input, y, x], &[outer, inner, height, width]) => {
            let is_kernel = rows == outer && y == height && x == width;
            is_kernel && input == N::from(4) && inner == N::from(9)
        }
        _ => false,
    }
}

impl Extent {
    /// Returns the extent of a module's change. `None` if the tensors do not tell, or if there is only a change of the bias.
    pub(super) fn of(parts: &Parts<'_>) -> Option<Self> {
        let get = |name: &str| dims(parts, name);
        if let (Some(up), Some(down)) = (get("lora_up.weight"), get("lora_down.weight")) {
            let Some(core) = get("lora_mid.weight") else { return low_rank(up, down, None).map(Extent::Dims) };
            let dims = [&[*up.first()?, *down.get(1)?], core.get(2..)?].concat();
            return Some(Extent::Dims(dims));
        }
        let pair = |a: &str, b: &str, core: &str| low_rank(get(a)?, get(b)?, get(core));
        let factor =
            |whole: &str, a: &str, b: &str, core: &str| get(whole).map(<[u64]>::to_vec).or_else(|| pair(a, b, core));
        let kronecker = || {
            let left = factor("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1")?;
            let right = factor("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")?;
            let product = |at: usize| left.get(at).copied()?.checked_mul(right.get(at).copied()?);
            Some([&[product(0)?, product(1)?], right.get(2..)?].concat())
        };
        let whole = || get("diff").or_else(|| get("w_norm")).map(<[u64]>::to_vec);
        let found = pair("hada_w1_a", "hada_w1_b", "hada_t1")
            .or_else(kronecker)
            .or_else(whole)
            .or_else(|| generalized(get("b1.weight")?, get("b2.weight")?));
        if let Some(dims) = found {
            return Some(Extent::Dims(dims));
        }
        if let (Some([rows, ..]), Some([_, columns, ..])) = (get("p_layer.weight"), get("q_layer.weight")) {
            return Some(Extent::Center([*rows, *columns]));
        }
        if let Some(&[blocks, size, _] | &[_, blocks, size, _]) = get("oft_blocks") {
            return blocks.checked_mul(size).map(Extent::Rows);
        }
        get("on_input").and(get("weight")).map(|dims| Extent::Factors(elements(dims)))
    }

    /// Returns whether a weight of these dimensions can have the change.
    pub(super) fn fits(&self, weight: &[u64]) -> bool {
        let rows = weight.first().copied();
        match self {
            Extent::Dims(dims) => {
                let has_rows = dims.first().copied() == rows && elements(dims) == elements(weight);
                has_rows || lacks_inpainting_channels(dims, weight)
            }
            Extent::Center(sizes) => weight.get(..2) == Some(sizes.as_slice()),
            Extent::Rows(count) => rows == Some(*count),
            Extent::Factors(count) => weight.iter().take(2).any(|dim| dim == count),
        }
    }

    /// The dimensions for a report: the number of rows or factors alone for kinds that tell no more.
    pub(super) fn to_dims(&self) -> Vec<u64> {
        match self {
            Extent::Dims(dims) => dims.clone(),
            Extent::Center(sizes) => sizes.to_vec(),
            Extent::Rows(count) | Extent::Factors(count) => vec![*count],
        }
    }
}

/// Returns the dimensions of the magnitudes of DoRA if a weight of these dimensions cannot have them: there is one for each row or
/// one for each column.
pub(super) fn wrong_magnitudes<'p>(parts: &'p Parts<'_>, weight: &[u64]) -> Option<&'p [u64]> {
    let magnitudes = dims(parts, DORA_SCALE).or_else(|| dims(parts, MAGNITUDE))?;
    let count = elements(magnitudes);
    (!weight.iter().take(2).any(|dim| *dim == count)).then_some(magnitudes)
}

/// Returns the dimensions of the change of the bias; `None` without one.
pub(super) fn of_bias<'p>(parts: &'p Parts<'_>) -> Option<&'p [u64]> {
    ["diff_b", "b_norm", "lora_up.bias"].iter().find_map(|name| dims(parts, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::lora::parts::modules;

    /// The weights that the networks of `fixtures/kinds/lycoris.txt` change.
    const WEIGHTS: [(&str, &[u64]); 4] =
        [("proj_in", &[32, 32, 1, 1]), ("attn2_to_k", &[32, 768]), ("conv1", &[32, 32, 3, 3]), ("norm", &[32])];

    /// Writes a file with zeros of these shapes.
    fn saved(folder: &tempfile::TempDir, tensors: &[(&str, Vec<u64>)]) -> Checkpoint {
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (key, dims) in tensors {
            let begin = end;
            end += 4 * dims.iter().product::<u64>();
            header.insert(
                (*key).to_owned(),
                serde_json::json!({"dtype": "F32", "shape": dims, "data_offsets": [begin, end]}),
            );
        }
        let header = serde_json::to_vec(&header).unwrap();
        let path = folder.path().join("network.safetensors");
        let data = vec![0; end as usize];
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()).unwrap();
        Checkpoint::open(path).unwrap()
    }

    #[test]
    fn has_the_shape_of_every_algorithm_of_lycoris() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../../../../fixtures/kinds/lycoris.txt");
        let mut count = 0;
        for network in text.split("# ").skip(1) {
            let (name, lines) = network.split_once('\n').unwrap();
            let tensor = |line: &'static str| {
                let (key, dims) = line.split_once(' ').unwrap();
                let dims = dims.split(',').filter(|dim| !dim.is_empty()).map(|dim| dim.parse().unwrap()).collect();
                (key, dims)
            };
            let checkpoint = saved(&folder, &lines.lines().map(tensor).collect::<Vec<_>>());
            for (module, parts) in &modules(&checkpoint).0 {
                let (_, weight) = WEIGHTS.iter().find(|(end, _)| module.ends_with(end)).unwrap();
                let extent = Extent::of(parts).unwrap_or_else(|| panic!("{name}: {module}"));
                assert!(extent.fits(weight), "{name}: {module} {extent:?}");
                assert!(wrong_magnitudes(parts, weight).is_none(), "{name}: {module}");
                let others =
                    WEIGHTS.iter().filter(|(end, _)| !module.ends_with(end) && matches!(extent, Extent::Dims(_)));
                for (end, other) in others {
                    assert!(!extent.fits(other), "{name}: {module} {extent:?} and {end}");
                }
                count += 1;
            }
        }
        assert_eq!(count, 92);
    }
}
