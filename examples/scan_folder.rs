//! Lists the files of a folder that are not safe: `cargo run --example scan_folder -- models/`
#![allow(clippy::print_stdout)]

use trinart_ckpt::report::ScanVerdict;
use trinart_ckpt::{Result, Scan};

/// One line for each file that is not safe.
pub(crate) fn scan(folder: &str) -> Result<String> {
    let report = Scan::new([folder]).run()?;
    let suspects = report.files.iter().filter(|file| file.verdict != ScanVerdict::Safe);
    Ok(suspects.map(|file| format!("{}: {}\n", file.file, file.verdict.text())).collect())
}

fn main() -> Result<()> {
    for folder in std::env::args().skip(1) {
        print!("{}", scan(&folder)?);
    }
    Ok(())
}
