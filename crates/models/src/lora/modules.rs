//! The modules of a model that LoRAs change, by kohya's names.

use std::collections::HashMap;

use super::spelling::Spelling;
use crate::family::Architecture;
use crate::layout::{Folder, Layout};

/// A module of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Module {
    /// The network.
    pub(crate) network: Folder,
    /// The name in the network, as diffusers and transformers have it.
    pub(crate) name: String,
}

/// The modules of an architecture.
#[derive(Debug)]
pub(crate) struct Modules {
    by_kohya: HashMap<String, (Module, bool)>,
    /// The names of the original code for modules of the UNet, in kohya's form.
    ldm: HashMap<String, String>,
}

/// Returns kohya's form of a name.
fn joined(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.replace('.', "_"))
}

/// Kohya's prefixes for a network.
fn prefixes(network: Folder) -> &'static [&'static str] {
    match network {
        Folder::Unet => &["lora_unet_"],
        Folder::TextEncoder => &["lora_te_", "lora_te1_"],
        Folder::TextEncoder2 => &["lora_te2_"],
        Folder::Vae | Folder::ImageEncoder | Folder::ControlNet => &[],
    }
}

impl Modules {
    /// Returns the modules of an architecture.
    pub(crate) fn of(architecture: Architecture) -> Self {
        let (mut by_kohya, mut ldm) = (HashMap::new(), HashMap::new());
        for pair in Layout::of(architecture).pairs() {
            let Some(name) = pair.diffusers.key.strip_suffix(".weight") else { continue };
            let module = Module { network: pair.folder, name: name.to_owned() };
            for prefix in prefixes(pair.folder) {
                for spelling in pair.diffusers_spellings().filter_map(|key| key.strip_suffix(".weight")) {
                    by_kohya.insert(joined(prefix, spelling), (module.clone(), false));
                }
            }
            let original = Folder::Unet.ldm_prefix(architecture).and_then(|prefix| pair.ldm.key.strip_prefix(prefix));
            if let Some(original) = original.and_then(|key| key.strip_suffix(".weight")) {
                let original = joined("lora_unet_", original);
                by_kohya.entry(original.clone()).or_insert((module, true));
                ldm.insert(name.to_owned(), original);
            }
        }
        Modules { by_kohya, ldm }
    }

    /// Returns the module with one of kohya's names, and whether the name is that of the original code.
    pub(crate) fn find(&self, kohya: &str) -> Option<(&Module, bool)> {
        self.by_kohya.get(kohya).map(|(module, is_ldm)| (module, *is_ldm))
    }

    /// Returns kohya's name of a module.
    pub(crate) fn kohya(&self, module: &Module, spelling: Spelling) -> String {
        let of_original = self.ldm.get(&module.name).filter(|_| spelling.is_ldm && module.network == Folder::Unet);
        if let Some(name) = of_original {
            return name.clone();
        }
        let prefixes = prefixes(module.network);
        let prefix = if spelling.is_numbered { prefixes.last() } else { prefixes.first() };
        joined(prefix.copied().unwrap_or_default(), &module.name)
    }
}
