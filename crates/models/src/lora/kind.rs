//! The kinds of changes in LoRAs.

use trinart_ckpt_formats::tensor::LazyTensor;

/// The tensor of a module with the magnitudes of DoRA, as PEFT stores them: a number for each row. Kohya's `dora_scale` has
/// another shape.
pub(crate) const MAGNITUDE: &str = "lora_magnitude_vector";

/// The tensor of a module with the magnitudes of DoRA, as LyCORIS and kohya's trainer store them.
pub(crate) const DORA_SCALE: &str = "dora_scale";

/// The names of a kind's tensors, and the kind for people. A name that ends with `.` or `_` is the begin of names. The first one
/// that fits decides.
const KINDS: &[(&str, &str)] = &[
    ("lora_mid.", "LoCon with a Tucker core"),
    ("lora_up.bias", "LoRA with a bias"),
    (DORA_SCALE, "DoRA"),
    (MAGNITUDE, "DoRA"),
    ("lora_", "LoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("on_input", "IA3"),
    ("a1.", "GLoRA"),
    ("a2.", "GLoRA"),
    ("b1.", "GLoRA"),
    ("b2.", "GLoRA"),
    ("bm.", "GLoRA"),
    ("q_layer.", "T-LoRA"),
    ("p_layer.", "T-LoRA"),
    ("lambda_layer", "T-LoRA"),
    ("diff", "full difference"),
    ("diff_b", "full difference"),
    ("w_norm", "change of a norm"),
    ("b_norm", "change of a norm"),
];

fn fits(name: &str, known: &str) -> bool {
    name == known || known.ends_with(['.', '_']) && name.starts_with(known)
}

/// Returns whether the tensor with this name belongs to a change, whatever its kind.
pub(super) fn is_of_change(name: &str) -> bool {
    KINDS.iter().any(|(known, _)| fits(name, known))
}

/// The tensor of a module with the rotations of OFT: blocks. BOFT has layers of blocks under the same name.
const ROTATIONS: &str = "oft_blocks";

/// Returns the kind of change that has these tensors by their names, for people.
pub(crate) fn kind<'t>(tensors: impl Iterator<Item = (&'t str, &'t LazyTensor)> + Clone) -> &'static str {
    let is_boft = |(name, tensor): (&str, &LazyTensor)| name == ROTATIONS && tensor.shape().dims().len() == 4;
    if tensors.clone().any(is_boft) {
        return "BOFT";
    }
    let found = KINDS.iter().find(|(known, _)| tensors.clone().any(|(name, _)| fits(name, known)));
    found.map_or("unknown kind", |(_, kind)| kind)
}
