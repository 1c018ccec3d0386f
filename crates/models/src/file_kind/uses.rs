use super::named::named;

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
