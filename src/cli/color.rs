//! Whether to use colors.

use std::ffi::OsString;

use anstream::AutoStream;
use anstream::stream::RawStream;
use clap::{ColorChoice, ValueEnum};

use super::args::ColorArgument;

/// Returns the value of `--color` in arguments that are not parsed yet, because help and usage errors have colors too. The
/// last one decides; one that is not valid is left to the parser.
pub(super) fn requested(arguments: &[OsString]) -> ColorChoice {
    let texts: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).take_while(|text| text != "--").collect();
    let attached = texts.iter().map(|text| text.strip_prefix("--color="));
    let separate =
        texts.iter().zip(texts.iter().skip(1)).map(|(name, value)| (name == "--color").then(|| value.as_ref()));
    let values = attached.zip(separate.chain([None])).filter_map(|(attached, separate)| attached.or(separate));
    let choices = values.filter_map(|value| ColorArgument::from_str(value, false).ok());
    choices.last().map_or(ColorChoice::Auto, Into::into)
}

/// Whether a stream gets colors: as chosen, or if it is a terminal with colors and neither NO_COLOR, CLICOLOR nor
/// CLICOLOR_FORCE say otherwise (<https://no-color.org>, <https://bixense.com/clicolors/>).
pub(super) fn is_on(choice: ColorChoice, stream: &impl RawStream) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(stream) != anstream::ColorChoice::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_option_before_arguments_are_parsed() {
        let find = |line: &str| requested(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find("trinart-ckpt scan --color never x"), ColorChoice::Never);
        assert_eq!(find("trinart-ckpt --color=always scan"), ColorChoice::Always);
        assert_eq!(find("trinart-ckpt --color=always scan --color never"), ColorChoice::Never);
        assert_eq!(find("trinart-ckpt scan -- --color=always"), ColorChoice::Auto);
        assert_eq!(find("trinart-ckpt scan --color"), ColorChoice::Auto);
        assert_eq!(find("trinart-ckpt scan --color=purple"), ColorChoice::Auto);
    }
}
