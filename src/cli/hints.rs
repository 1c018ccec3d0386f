//! Words the hints of errors and the tips of reports as options of the command line.

use crate::report::Tip;
use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_models::NoticeCode;

/// Returns what to add to an error message, as in `already exists (replace it with --force)`. `None` if no option helps.
pub(super) fn option(hint: Hint) -> Option<&'static str> {
    Some(match hint {
        Hint::Overwrite => "replace it with --force",
        Hint::Saturate => "clamp such values with --saturate",
        Hint::Sanitize => "take only the tensors with convert --sanitize",
        Hint::Partial => "keep the checkpoint's own tensors with --partial",
        Hint::AllowWithdrawn => "use it anyway with --allow-withdrawn",
        Hint::AllowLoss => "accept this loss with --allow-loss",
        Hint::AllowFamilyMismatch => "merge it anyway with --allow-family-mismatch",
        Hint::SwapInputs => "swap the two: give the other file as the checkpoint, and this one with --vae",
        Hint::NameVae => "name the VAE with --vae",
        Hint::Repair => "repair it with convert --repair",
        Hint::NameComponents => "name a file for each component with --replace",
        Hint::NameFormat => "name the format with --to",
        Hint::OutputFolder => "end the output in / to write a folder",
        Hint::Component => "take one component with --component",
        Hint::Cpu => "render on the CPU with --device cpu",
        Hint::SmallerOrCpu => "lower --size, or render on the CPU with --device cpu",
        Hint::LoraFolder => "name it with --lora-dir",
        _ => return None,
    })
}

/// Returns what to add to a line of a report, as in `and 12 more; --json lists all`. `None` if no option helps.
pub(super) fn tip(tip: Tip) -> Option<&'static str> {
    Some(match tip {
        Tip::MoreEntries => "--json lists all",
        Tip::WrongPositionIds => "--fix-position-ids corrects them",
        Tip::MissingPositionIds => "--fix-position-ids adds them",
        Tip::Repairable => "convert --repair removes it",
        Tip::Notice(NoticeCode::UnknownKept) => "inspect --keys lists them",
        Tip::Notice(NoticeCode::NotInFolders) => "-v lists them",
        Tip::Notice(NoticeCode::PredictionAssumed | NoticeCode::MarksContradict) => "--prediction sets it",
        Tip::Notice(NoticeCode::PositionIdsWrong) => "convert --fix-position-ids corrects them",
        Tip::Notice(NoticeCode::Dequantized) => "--dtype sets another dtype",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Arguments;

    #[test]
    fn names_only_options_that_exist() {
        let command = Arguments::definition();
        let options: Vec<_> = command
            .get_subcommands()
            .flat_map(|command| command.get_arguments())
            .chain(command.get_arguments())
            .filter_map(|argument| argument.get_long())
            .map(|name| format!("--{name}"))
            .collect();
        let mut hints = vec![
            Hint::Overwrite,
            Hint::Saturate,
            Hint::Sanitize,
            Hint::Partial,
            Hint::AllowWithdrawn,
            Hint::AllowLoss,
            Hint::AllowFamilyMismatch,
            Hint::SwapInputs,
            Hint::NameVae,
            Hint::NameComponents,
            Hint::Repair,
            Hint::NameFormat,
            Hint::OutputFolder,
            Hint::Component,
        ];
        if cfg!(feature = "render") {
            hints.extend([Hint::Cpu, Hint::SmallerOrCpu]);
        }
        let tips = [
            Tip::MoreEntries,
            Tip::WrongPositionIds,
            Tip::MissingPositionIds,
            Tip::Repairable,
            Tip::Notice(NoticeCode::UnknownKept),
            Tip::Notice(NoticeCode::NotInFolders),
            Tip::Notice(NoticeCode::PositionIdsWrong),
            Tip::Notice(NoticeCode::Dequantized),
            Tip::Notice(NoticeCode::PredictionAssumed),
        ];
        let hints = hints.into_iter().map(|hint| option(hint).unwrap());
        for words in hints.chain(tips.into_iter().map(|found| tip(found).unwrap())) {
            let mut named = words.split([' ', ',']).filter(|word| word.starts_with("--"));
            assert!(named.all(|word| options.iter().any(|option| option == word)), "no such option: {words}");
        }
    }
}
