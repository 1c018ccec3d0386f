use std::path::Path;

use crate::error::{Error, Hint, Result};

/// The containers that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A safetensors file.
    Safetensors,
    /// A zip that PyTorch and WebUI load: `.ckpt`.
    Torch,
    /// A diffusers folder.
    Diffusers,
}

impl Target {
    /// Returns the container for an output path: a diffusers folder for an existing folder or a path that ends in `/`, else
    /// by the extension.
    ///
    /// Fails if the extension is unknown.
    pub fn from_path(path: &Path) -> Result<Self> {
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Ok(Target::Diffusers);
        }
        Self::from_extension(path).ok_or_else(|| {
            Error::usage("the output has no known extension; expected .safetensors, .ckpt, or a / at the end")
                .with_hint(Hint::NameFormat)
                .in_file(path)
        })
    }

    /// Returns the container that the extension of a file means; `None` for an unknown extension.
    pub fn from_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "safetensors" | "sft" => Some(Target::Safetensors),
            "ckpt" | "pt" | "pth" | "bin" => Some(Target::Torch),
            _ => None,
        }
    }

    /// The name of the container, as the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Target::Safetensors => "safetensors",
            Target::Torch => "ckpt",
            Target::Diffusers => "diffusers",
        }
    }
}
