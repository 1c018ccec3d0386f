//! Results as text for people and as JSON for scripts. Text from files is made printable here.

mod components;
mod difference;
mod hashes;
mod inspection;
mod outcome;
#[cfg(feature = "render")]
mod render;
mod scan;

pub use components::{ComponentSummary, components};
pub use difference::{Compared, Difference};
pub use hashes::Hashes;
pub use inspection::Inspection;
pub use outcome::{AutoencoderReport, Failure, LeftOut, Merged, Outcome, Side};
#[cfg(feature = "render")]
pub use render::{RenderChecked, RenderPaths};
pub use scan::{Scanned, Scanning};

/// A number of bytes for people, in the decimal units that file managers and model pages use.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"kB");
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        value /= 1000.0;
        unit = next;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// A count with its noun.
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (999_400, "999 kB"),
            (999_600, "1.00 MB"),
            (4_265_481_056, "4.27 GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
