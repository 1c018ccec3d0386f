//! The program: everything but its allocator is in the library.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    trinart_ckpt::cli::run(std::env::args_os())
}
