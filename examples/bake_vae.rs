//! Puts a VAE into a checkpoint: `cargo run --example bake_vae -- model.ckpt vae.pt merged.safetensors`
#![allow(clippy::print_stdout)]

use trinart_ckpt::{Checkpoint, Error, MergeVae, Result};

/// Writes `base` with the VAE from `vae` to `output`, and reports what happened to each tensor.
pub(crate) fn bake(base: &str, vae: &str, output: &str) -> Result<String> {
    let (base, vae) = (Checkpoint::open(base)?, Checkpoint::open(vae)?);
    Ok(MergeVae::new(&base, &vae).write(output)?.to_text())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, vae, output] = arguments.as_slice() else {
        return Err(Error::usage("expected BASE VAE OUTPUT"));
    };
    print!("{}", bake(base, vae, output)?);
    Ok(())
}
