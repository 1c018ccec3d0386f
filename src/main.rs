//! The program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    trinart_ckpt::cli::run(std::env::args_os())
}
