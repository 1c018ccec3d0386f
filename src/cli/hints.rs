//! Words the library's hints as options of the command line.

use trinart_ckpt_formats::error::Hint;

/// Returns what to add to an error message, as in `already exists (replace it with --force)`. `None` if no option helps.
pub(super) fn option(hint: Hint) -> Option<&'static str> {
    Some(match hint {
        Hint::Overwrite => "replace it with --force",
        Hint::Saturate => "clamp such values with --saturate",
        Hint::Sanitize => "take only the tensors with --sanitize",
        Hint::Partial => "keep the checkpoint's own tensors with --partial",
        Hint::AllowWithdrawn => "use it anyway with --allow-withdrawn",
        Hint::NameVae => "name the VAE with --vae",
        Hint::NameFormat => "name the format with --to",
        Hint::OutputFolder => "end the output in / to write a folder",
        Hint::Component => "take one component with --component",
        Hint::Cpu => "render on the CPU with --device cpu",
        Hint::SmallerOrCpu => "lower --size, or render on the CPU with --device cpu",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Arguments;

    #[test]
    fn names_only_options_that_exist() {
        let command = Arguments::command();
        let options: Vec<_> = command
            .get_subcommands()
            .flat_map(|command| command.get_arguments())
            .filter_map(|argument| argument.get_long())
            .map(|name| format!("--{name}"))
            .collect();
        let mut hints = vec![
            Hint::Overwrite,
            Hint::Saturate,
            Hint::Sanitize,
            Hint::Partial,
            Hint::AllowWithdrawn,
            Hint::NameVae,
            Hint::NameFormat,
            Hint::OutputFolder,
            Hint::Component,
        ];
        if cfg!(feature = "render") {
            hints.extend([Hint::Cpu, Hint::SmallerOrCpu]);
        }
        for hint in hints {
            for word in option(hint).unwrap().split([' ', ',']).filter(|word| word.starts_with("--")) {
                assert!(options.iter().any(|option| option == word), "{hint:?}: no option {word}");
            }
        }
    }
}
