use trinart_ckpt_models::NoticeCode;

/// A place in the text of a report where a program can add what to do next.
///
/// The library has no words for it, because the remedy is different in each program: a command line names an option, a
/// graphical program offers a button. `to_text_with` takes a function that returns the words for a tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tip {
    /// The text shows only the first entries of a list. The report itself has all of them.
    MoreEntries,
    /// The position_ids are wrong. A conversion can correct them.
    WrongPositionIds,
    /// The text encoder has no position_ids. A conversion can add them.
    MissingPositionIds,
    /// The file has a defect. A conversion can repair it.
    Repairable,
    /// The report contains a notice with this code.
    Notice(NoticeCode),
}

/// Returns the words for a tip, such as `--json lists all`; `None` adds nothing to the text.
pub type TipWords<'a> = &'a dyn Fn(Tip) -> Option<&'static str>;

/// The words of `to_text`: none.
pub(super) const NO_TIPS: TipWords<'static> = &|_| None;

/// Formats the words for a tip as the end of a line.
pub(super) fn ending(tip: Tip, words: TipWords<'_>) -> String {
    words(tip).map_or_else(String::new, |words| format!("; {words}"))
}
