use trinart_ckpt_formats::tensor::{Dtype, Overflow};

/// The dtype of the VAE in the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum VaeDtype {
    /// The VAE file's own dtypes: the tensors stay bit-identical.
    #[default]
    Keep,
    /// The dtypes of the checkpoint's VAE, tensor by tensor.
    Match,
    /// This dtype.
    As(Dtype),
}

/// The options of a merge. The default casts nothing, and is strict about missing keys and families.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MergeVaeOptions {
    /// The dtype of the floating-point tensors in the output; `None` casts nothing.
    pub dtype: Option<Dtype>,
    /// The dtype of the VAE; `None` follows `dtype`.
    pub vae_dtype: Option<VaeDtype>,
    /// How to treat values that overflow a new dtype.
    pub overflow: Overflow,
    /// Keeps the checkpoint's own tensors where the VAE lacks them, and drops VAE tensors that no VAE has.
    pub partial: bool,
    /// Dequantizes quantized weights even without a cast, as a folder needs them.
    pub dequantize: bool,
    /// Accepts a VAE of another family than the checkpoint: SD v1's in SDXL, or the reverse.
    pub allow_family_mismatch: bool,
}

impl Default for MergeVaeOptions {
    fn default() -> Self {
        MergeVaeOptions {
            dtype: None,
            vae_dtype: None,
            overflow: Overflow::Refuse,
            partial: false,
            dequantize: false,
            allow_family_mismatch: false,
        }
    }
}

impl MergeVaeOptions {
    /// Casts the floating-point tensors of the output.
    #[must_use]
    pub fn dtype(self, dtype: Dtype) -> Self {
        MergeVaeOptions { dtype: Some(dtype), ..self }
    }

    /// Sets the dtype of the VAE. By default it follows [`Self::dtype`].
    #[must_use]
    pub fn vae_dtype(self, dtype: VaeDtype) -> Self {
        MergeVaeOptions { vae_dtype: Some(dtype), ..self }
    }

    /// Sets how to treat values that overflow a new dtype.
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        MergeVaeOptions { overflow, ..self }
    }

    /// Keeps the checkpoint's own tensors where the VAE lacks them, and drops VAE tensors that no VAE has.
    #[must_use]
    pub fn partial(self, partial: bool) -> Self {
        MergeVaeOptions { partial, ..self }
    }

    /// Dequantizes quantized weights even without a cast.
    #[must_use]
    pub fn dequantize(self, dequantize: bool) -> Self {
        MergeVaeOptions { dequantize, ..self }
    }

    /// Accepts a VAE of another family than the checkpoint.
    #[must_use]
    pub fn allow_family_mismatch(self, allow: bool) -> Self {
        MergeVaeOptions { allow_family_mismatch: allow, ..self }
    }
}
