//! What the prompts load: LoRAs and embeddings.

use std::path::PathBuf;

use super::input::RenderInput;
use crate::checks::Check;
use crate::files::{NetworkKind, UsedNetwork};
use crate::lora::{self, Lora};
use crate::pipeline::ParsedPrompts;
use crate::prompt::{Embeddings, Syntax, TOKENS, Tokenizer};
use crate::settings::Settings;
use trinart_ckpt_formats::error::Result;

/// The folders that LoRAs and embeddings are looked for in.
#[derive(Debug, Clone, Default)]
pub(super) struct Folders {
    pub(super) loras: Option<PathBuf>,
    pub(super) embeddings: Option<PathBuf>,
}

/// The networks of the prompts.
pub(super) struct Networks {
    loras: Vec<Lora>,
    /// All LoRAs and embeddings, for comparisons with a reference picture.
    pub(super) used: Vec<UsedNetwork>,
}

impl Networks {
    /// Opens the LoRAs that the prompt loads, and the embeddings that the prompts name, which become part of the settings.
    ///
    /// Fails if a LoRA is missing, or if a file is not readable or not supported.
    pub(super) fn open(folders: &Folders, settings: &mut Settings) -> Result<Self> {
        let loras = match settings.syntax {
            Syntax::WebUi => lora::open(&settings.prompt, folders.loras.as_ref())?,
            Syntax::Trinart => Vec::new(),
        };
        if let Some(folder) = &folders.embeddings {
            let mut embeddings = Embeddings::open(folder, &[&settings.prompt, &settings.negative])?;
            let tokenizer = Tokenizer::new()?.with_embeddings(&embeddings);
            let used: Vec<u32> = ParsedPrompts::parse(settings, &tokenizer)?.tokens().collect();
            let mut next = u32::from(TOKENS);
            let firsts: Vec<u32> = embeddings
                .iter()
                .map(|(_, count, _)| {
                    next += count as u32;
                    next - count as u32
                })
                .collect();
            embeddings.retain(|index| firsts.get(index).is_some_and(|first| used.contains(first)));
            settings.embeddings = embeddings;
        }
        let used = settings.embeddings.used().chain(loras.iter().map(Lora::used)).collect();
        Ok(Networks { loras, used })
    }

    /// Returns a checkpoint with the LoRAs applied, and what was applied.
    pub(super) fn apply(&self, input: &RenderInput) -> Result<(RenderInput, Vec<Check>)> {
        let applied = lora::apply(input.state_dict(), &self.loras);
        let (state_dict, checks) = applied.map_err(|error| error.in_file(input.path()))?;
        Ok((input.clone().with_weights(state_dict), checks))
    }

    /// Checks that report the embeddings.
    pub(super) fn checks(&self) -> Vec<Check> {
        let embeddings = self.used.iter().filter(|network| network.kind == NetworkKind::Embedding);
        embeddings.map(|it| Check::info("embedding", format!("{}, hash {}", it.name, it.hash))).collect()
    }
}
