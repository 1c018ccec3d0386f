//! Notices about what contradicts each other.

use std::path::Path;

use trinart_ckpt_formats::Target;
use trinart_ckpt_models::parameterization::Parameterization;
use trinart_ckpt_models::{Notice, NoticeCode};

/// Returns a notice if the extension of the output means another format. An unknown extension means none.
pub(super) fn of_extension(format: Target, output: &Path) -> Option<Notice> {
    let by_extension = Target::from_path(output).ok()?;
    if by_extension == format {
        return None;
    }
    let (format, meant) = (format.name(), by_extension.name());
    let text = format!("the output format is {format}, but the extension of the output means {meant}");
    Some(Notice::new(NoticeCode::FormatContradictsExtension, text))
}

/// Returns a notice for each mark that contradicts one of higher precedence.
pub(super) fn of_marks(found: &Parameterization) -> impl Iterator<Item = Notice> {
    found.contradictions().map(|(first, other)| {
        let (field, value, place) = (other.claim.field(), other.claim.value(), &other.place);
        let text = format!("{place} says {field} {value}; used {} from {}", first.claim.value(), first.place);
        Notice::new(NoticeCode::MarksContradict, text)
    })
}
