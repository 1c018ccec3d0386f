//! Words the remedies of an audit as commands for a shell.

use std::path::Path;

use crate::report::Remedy;

/// Returns the command that applies a remedy to a file.
pub(super) fn command(file: &str, remedy: &Remedy) -> Option<String> {
    let convert =
        |options: &str, output: &str| format!("trinart-ckpt convert {}{options} -o {}", quoted(file), quoted(output));
    Some(match remedy {
        Remedy::Sanitize(output) => convert(" --sanitize", output),
        Remedy::Scan => format!("trinart-ckpt scan {}", quoted(file)),
        Remedy::MergeVae(output) => {
            format!("trinart-ckpt merge-vae {} --vae VAE -o {}", quoted(file), quoted(output))
        }
        Remedy::Repair(output) => convert(" --repair", output),
        Remedy::FixPositionIds => convert(" --fix-position-ids", file) + " --force",
        Remedy::Prune(output) => convert(" --prune", output),
        Remedy::Move(to) => {
            let folder = Path::new(to).parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            let make = folder.map_or_else(String::new, |it| format!("mkdir -p {} && ", quoted(&it.to_string_lossy())));
            format!("{make}mv -n {} {}", quoted(file), quoted(to))
        }
        Remedy::Delete => format!("rm {}", quoted(file)),
        Remedy::Compare(other) => format!("trinart-ckpt diff {} {}", quoted(file), quoted(other)),
        Remedy::Inspect => format!("trinart-ckpt inspect {}", quoted(file)),
    })
}

/// Quotes an argument for a POSIX shell, if it must be quoted.
fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    // What begins with a dash would be an option.
    let dot = if text.starts_with('-') { "./" } else { "" };
    format!("'{dot}{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_a_shell_would_change() {
        for (text, expected) in [
            ("a/b-c_1.ckpt", "a/b-c_1.ckpt"),
            ("モデル.ckpt", "モデル.ckpt"),
            ("a b.ckpt", "'a b.ckpt'"),
            ("it's.ckpt", "'it'\\''s.ckpt'"),
            ("-rf", "'./-rf'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
