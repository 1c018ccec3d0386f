/// Formats a number of bytes in decimal units, as file managers and model pages do.
pub fn size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, "kB");
    for larger in ["MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
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

/// Formats a count with its noun: `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Formats a number with five significant digits.
pub(crate) fn short_value(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e7).contains(&magnitude) {
        let digits = if value == 0.0 { 0 } else { (4 - libm::log10(magnitude).floor() as i32).max(0) as usize };
        let text = format!("{value:.digits$}");
        let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        return if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() };
    }
    format!("{value:.4e}")
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
