use super::named::named;
use super::{FileKind, Identity, Model};
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
    /// Lists what this program can do with the file. `architecture` is what detection finds.
    pub fn uses(&self, architecture: Option<Architecture>, has_vae: bool) -> Vec<Use> {
        use FileKind::{Checkpoint, Empty, Unet, Vae};
        let is_sd = matches!(self.kind, Checkpoint | Unet);
        let is_known = architecture.is_some() && (is_sd || self.kind.is_text_encoder());
        let mut uses = Vec::new();
        let mut can = |use_, is_possible| {
            if is_possible {
                uses.push(use_);
            }
        };
        can(Use::MergeVaeCheckpoint, self.kind == Checkpoint);
        can(Use::MergeVaeDonor, self.kind == Vae || (self.kind == Checkpoint && has_vae));
        can(Use::ConvertFile, self.kind != Empty);
        can(Use::ConvertFolder, is_known || self.kind == Vae);
        can(Use::RenderCheck, self.kind == Checkpoint && self.model == Some(Model::Sd1) && has_vae);
        uses
    }
}
