use serde::Serialize;

/// A rank and an alpha, and how many modules of a LoRA have them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraScale {
    /// The rank; `None` for kinds without ranks.
    pub rank: Option<u64>,
    /// Alpha; `None` if the modules have none, and for files elsewhere whose alphas were not read.
    pub alpha: Option<f64>,
    /// What the change is multiplied by: alpha divided by the rank, and 1 without alpha. `None` if it is not known.
    pub scale: Option<f64>,
    /// Whether the modules are convolutions that look at more than one pixel.
    pub is_convolution: bool,
    /// The number of modules.
    pub modules: usize,
}
