//! Lists the tensors of a checkpoint: `cargo run --example list_tensors -- model.ckpt`
#![allow(clippy::print_stdout)]

use trinart_ckpt::{Checkpoint, Result};

/// One line for each tensor: its key in LDM names, its dtype, its shape.
pub(crate) fn list(path: &str) -> Result<String> {
    let checkpoint = Checkpoint::open(path)?;
    let lines =
        checkpoint.state_dict().iter().map(|(key, tensor)| format!("{key} {} {}\n", tensor.dtype(), tensor.shape()));
    Ok(lines.collect())
}

fn main() -> Result<()> {
    for path in std::env::args().skip(1) {
        print!("{}", list(&path)?);
    }
    Ok(())
}
