use super::named::named;
use super::{FileKind, Identity, Model};
use crate::Component;
use crate::family::Architecture;

named! {
    /// What this program can do with a file, beside `inspect`, `diff`, `hash` and `scan`, which take any.
    Use {
        MergeVaeCheckpoint "merge-vae-checkpoint" "merge-vae (as the checkpoint)",
        MergeVaeDonor "merge-vae-vae" "merge-vae (as the VAE)",
        ConvertFile "convert-file" "convert to a file",
        ConvertFolder "convert-folder" "convert to a diffusers folder",
        RenderCheck "render-check" "render-check",
    }
}

impl Identity {
    /// Lists what this program can do with the file. `architecture` is what detection finds, and `has` tells whether the
    /// file has a component, both in LDM names. merge-vae and render-check take no checkpoint with wrapped keys, which
    /// must be repaired first.
    pub fn uses(&self, architecture: Option<Architecture>, has: impl Fn(Component) -> bool) -> Vec<Use> {
        use FileKind::{Checkpoint, Empty, Parts, Unet, Vae};
        let is_plain = self.wrapper.is_empty();
        let has_vae = has(Component::Vae);
        let is_whole = self.kind == Checkpoint && has_vae && has(Component::TextEncoder);
        let is_lone = self.kind == Unet || self.kind.is_text_encoder();
        let mut uses = Vec::new();
        let mut can = |use_, is_possible| {
            if is_possible {
                uses.push(use_);
            }
        };
        can(Use::MergeVaeCheckpoint, self.kind == Checkpoint && is_plain);
        can(Use::MergeVaeDonor, self.kind == Vae || (matches!(self.kind, Checkpoint | Parts) && has_vae));
        can(Use::ConvertFile, self.kind != Empty);
        can(Use::ConvertFolder, (architecture.is_some() && (is_whole || is_lone)) || self.kind == Vae);
        let is_rendered = architecture == Some(Architecture::Sd1) && self.model == Some(Model::Sd1);
        can(Use::RenderCheck, is_whole && is_plain && is_rendered);
        uses
    }
}
