use anstyle::{AnsiColor, Style};

/// Whether a text contains the escape sequences that color it in a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colors {
    /// Plain text.
    Off,
    /// Text with escape sequences.
    On,
}

/// What is good: safe, equal, passed.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();

/// What needs a look: unknown, different, incomplete.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();

/// What could not be examined.
pub(crate) const UNREADABLE: Style = AnsiColor::Magenta.on_default().bold();

/// What is bad: dangerous, failed; and errors.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

impl Colors {
    /// Encloses a text in the escape sequences of a style.
    pub(crate) fn paint(self, text: &str, style: Style) -> String {
        match self {
            Colors::Off => text.to_owned(),
            Colors::On => format!("{style}{text}{style:#}"),
        }
    }
}
