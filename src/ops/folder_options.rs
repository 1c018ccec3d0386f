/// How to write a diffusers folder.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FolderOptions {
    /// Write weights as `.bin` instead of `.safetensors`.
    pub bin: bool,
    /// A variant in the names of the weights: `fp16` makes `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<String>,
    /// The most bytes of tensors in one file, at least 1; `None` means 10 GB, as in diffusers.
    pub max_shard_bytes: Option<u64>,
}

impl FolderOptions {
    /// Writes weights as `.bin`, for programs that do not read safetensors.
    #[must_use]
    pub fn bin(self, bin: bool) -> Self {
        FolderOptions { bin, ..self }
    }

    /// Sets the variant in the names of the weights, such as `fp16`.
    #[must_use]
    pub fn variant(self, variant: impl Into<String>) -> Self {
        FolderOptions { variant: Some(variant.into()), ..self }
    }

    /// Sets the most bytes of tensors in one file, at least 1. A larger tensor gets a file of its own.
    #[must_use]
    pub fn max_shard_bytes(self, bytes: u64) -> Self {
        FolderOptions { max_shard_bytes: Some(bytes), ..self }
    }
}
