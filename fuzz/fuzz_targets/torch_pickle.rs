#![no_main]

use libfuzzer_sys::fuzz_target;
use trinart_ckpt_fuzz::{open, torch_zip, write};

fuzz_target!(|data: &[u8]| open(&write("input.ckpt", &torch_zip(data))));
