//! The folders of WebUI and ComfyUI.

use std::path::{Path, PathBuf};

/// The folder of checkpoints that only a root of WebUI or ComfyUI has, and its folder of VAEs.
const FOLDERS: [(&str, &str); 2] = [("models/Stable-diffusion", "models/VAE"), ("models/checkpoints", "models/vae")];

/// Returns whether a folder is the root of a WebUI or ComfyUI.
pub(super) fn is_root(folder: &Path) -> bool {
    vaes_of(folder).is_some()
}

/// Where the VAEs of a root are; `None` for other folders.
fn vaes_of(root: &Path) -> Option<PathBuf> {
    let found = FOLDERS.iter().find(|(checkpoints, _)| root.join(checkpoints).is_dir());
    found.map(|(_, vaes)| root.join(vaes))
}

/// Returns the folder of VAEs of the WebUI or ComfyUI in which a file lies; `None` elsewhere.
pub fn vae_folder_of(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    file.ancestors().skip(1).find_map(|root| vaes_of(root).filter(|folder| folder.is_dir()))
}
