#![no_main]

use libfuzzer_sys::fuzz_target;
use trinart_ckpt_fuzz::{open, write};

fuzz_target!(|data: &[u8]| open(&write("input.safetensors", data)));
