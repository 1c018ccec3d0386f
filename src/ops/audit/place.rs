//! What a folder is for, by the names that WebUI, Forge and ComfyUI give it, and whether a file belongs there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use trinart_ckpt_models::FileKind;

/// What the files of a folder should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Checkpoints,
    Vaes,
    Adapters,
    Embeddings,
    ControlNets,
    Upscalers,
    Hypernetworks,
    TextEncoders,
    DiffusionModels,
}

/// The folders by name, lower-case.
const NAMES: &[(&str, Role)] = &[
    ("stable-diffusion", Role::Checkpoints),
    ("checkpoints", Role::Checkpoints),
    ("vae", Role::Vaes),
    ("lora", Role::Adapters),
    ("loras", Role::Adapters),
    ("lycoris", Role::Adapters),
    ("embeddings", Role::Embeddings),
    ("controlnet", Role::ControlNets),
    ("esrgan", Role::Upscalers),
    ("realesrgan", Role::Upscalers),
    ("swinir", Role::Upscalers),
    ("upscale_models", Role::Upscalers),
    ("hypernetworks", Role::Hypernetworks),
    ("text_encoder", Role::TextEncoders),
    ("text_encoders", Role::TextEncoders),
    ("clip", Role::TextEncoders),
    ("unet", Role::DiffusionModels),
    ("diffusion_models", Role::DiffusionModels),
];

impl Role {
    /// Returns the role of the innermost folder above a file that has one.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let folders = file.ancestors().skip(1).filter_map(|folder| folder.file_name());
        folders.filter_map(Self::named).next()
    }

    /// Returns the role of a folder with this name.
    pub(super) fn named(folder: &OsStr) -> Option<Self> {
        let folder = folder.to_string_lossy().to_lowercase();
        NAMES.iter().find(|(known, _)| *known == folder).map(|(_, role)| *role)
    }

    /// Returns whether a kind of file belongs into the folder. What is not known may be right.
    pub(super) fn takes(self, kind: FileKind) -> bool {
        use FileKind::{
            Checkpoint, ControlLora, ControlNet, ControlNetLllite, ControlNetUnion, DiffusionModel, Empty,
            Hypernetwork, IpAdapter, OtherCheckpoint, OtherVae, Parts, T2iAdapter, Taesd, TextualInversion, Unet,
            Unknown, Upscaler, Vae, VaeApprox,
        };
        if matches!(kind, Unknown | Empty | Parts) {
            return true;
        }
        match self {
            Role::Checkpoints | Role::DiffusionModels => {
                matches!(kind, Checkpoint | OtherCheckpoint | Unet | DiffusionModel)
            }
            Role::Vaes => matches!(kind, Vae | OtherVae | Taesd | VaeApprox),
            Role::Adapters => kind.is_adapter() || matches!(kind, FileKind::MotionLora | ControlLora),
            Role::Embeddings => kind == TextualInversion,
            Role::ControlNets => {
                !matches!(kind, Checkpoint | OtherCheckpoint | Vae | TextualInversion | Hypernetwork)
                    && (!kind.is_adapter() || kind == IpAdapter)
                    || matches!(kind, ControlNet | ControlNetUnion | ControlLora | ControlNetLllite | T2iAdapter)
            }
            Role::Upscalers => {
                !matches!(kind, Checkpoint | OtherCheckpoint | Vae | TextualInversion | Unet) && !kind.is_adapter()
                    || kind == Upscaler
            }
            Role::Hypernetworks => kind == Hypernetwork,
            Role::TextEncoders => kind.is_text_encoder() || matches!(kind, FileKind::ClipVision),
        }
    }

    /// The folder that a kind of file belongs into, as WebUI names it.
    pub(super) fn folder_for(kind: FileKind) -> Option<&'static str> {
        use FileKind::{
            Checkpoint, ControlNet, ControlNetUnion, Hypernetwork, OtherCheckpoint, OtherVae, T2iAdapter,
            TextualInversion, Upscaler, Vae,
        };
        Some(match kind {
            Checkpoint | OtherCheckpoint => "Stable-diffusion",
            Vae | OtherVae => "VAE",
            ControlNet | ControlNetUnion | T2iAdapter => "ControlNet",
            TextualInversion => "embeddings",
            Hypernetwork => "hypernetworks",
            Upscaler => "ESRGAN",
            kind if kind.is_adapter() => "Lora",
            _ => return None,
        })
    }

    /// What the folder is for, in words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Role::Checkpoints => "checkpoints",
            Role::Vaes => "VAEs",
            Role::Adapters => "LoRAs",
            Role::Embeddings => "embeddings",
            Role::ControlNets => "ControlNets",
            Role::Upscalers => "upscalers",
            Role::Hypernetworks => "hypernetworks",
            Role::TextEncoders => "text encoders",
            Role::DiffusionModels => "diffusion models",
        }
    }
}

/// Where a file belongs: into the folder of its kind beside the one in which it is.
pub(super) fn destination(path: &Path, kind: FileKind) -> Option<String> {
    let name = Role::folder_for(kind)?;
    let of_role = path.ancestors().skip(1).find(|folder| {
        let parent = folder.parent().map(|parent| parent.join("file"));
        Role::of(&folder.join("file")).is_some() && parent.is_none_or(|parent| Role::of(&parent).is_none())
    })?;
    let above = of_role.parent()?;
    // WebUI has its embeddings beside the folder of models.
    let (root, models) = match above.join("models") {
        models if models.is_dir() => (Some(above), models),
        _ => (above.parent(), above.to_owned()),
    };
    let embeddings = root.map(|root| root.join(name)).filter(|folder| name == "embeddings" && folder.is_dir());
    let folder = embeddings.unwrap_or_else(|| folder_in(&models, name));
    Some(folder.join(path.file_name()?).to_string_lossy().into_owned())
}

/// Returns the folder with this name, or the one that ComfyUI has for the same kind of files. If neither exists, returns the
/// path at which to create it.
fn folder_in(models: &Path, name: &str) -> PathBuf {
    let folder = models.join(name);
    if folder.is_dir() {
        return folder;
    }
    let role = Role::named(name.as_ref());
    let others = fs::read_dir(models).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_same = |other: &PathBuf| other.is_dir() && other.file_name().is_some_and(|name| Role::named(name) == role);
    others.filter(is_same).min().unwrap_or(folder)
}
