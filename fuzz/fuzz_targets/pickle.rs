#![no_main]

use libfuzzer_sys::fuzz_target;
use trinart_ckpt_formats::danger::examine;
use trinart_ckpt_formats::pickle::{parse, parse_lenient};
use trinart_ckpt_fuzz::check;

fuzz_target!(|data: &[u8]| {
    let lenient = parse_lenient(data);
    examine(&lenient.pickle);
    match parse(data) {
        Ok(strict) => {
            let names = |uses: &[trinart_ckpt_formats::pickle::GlobalUse]| {
                uses.iter().map(|it| (it.name.to_string(), it.offset)).collect::<Vec<_>>()
            };
            assert_eq!(names(strict.globals()), names(lenient.pickle.globals()));
        }
        Err(error) => check(&error),
    }
});
