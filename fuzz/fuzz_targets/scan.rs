#![no_main]

use libfuzzer_sys::fuzz_target;
use trinart_ckpt_formats::scan::scan_file;
use trinart_ckpt_fuzz::{check, write};

fuzz_target!(|data: &[u8]| {
    if let Err(error) = scan_file(write("input.ckpt", data)) {
        check(&error);
    }
});
