//! Words the remedies of an audit as commands for the shell of the system.

use std::path::Path;

use crate::report::Remedy;

/// The shell that commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Posix,
    /// Of any version: Windows has 5.1, which does not know `&&`.
    PowerShell,
}

const HERE: Shell = if cfg!(windows) { Shell::PowerShell } else { Shell::Posix };

/// Returns the command that applies a remedy to a file.
pub(super) fn command(file: &str, remedy: &Remedy) -> Option<String> {
    Some(HERE.command(file, remedy))
}

impl Shell {
    fn command(self, file: &str, remedy: &Remedy) -> String {
        let quoted = |text: &str| self.quoted(text);
        let file = quoted(file);
        let convert =
            |options: &str, output: &str| format!("trinart-ckpt convert {file}{options} -o {}", quoted(output));
        match remedy {
            Remedy::Sanitize(output) => convert(" --sanitize", output),
            Remedy::Scan => format!("trinart-ckpt scan {file}"),
            Remedy::MergeVae(output) => format!("trinart-ckpt merge-vae {file} --vae VAE -o {}", quoted(output)),
            Remedy::Repair(output) => convert(" --repair", output),
            Remedy::FixPositionIds => format!("trinart-ckpt convert {file} --fix-position-ids -o {file} --force"),
            Remedy::Prune(output) => convert(" --prune", output),
            Remedy::Move(to) => {
                let folder = Path::new(to).parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
                let make = folder.map_or_else(String::new, |it| self.make_folder(&it.to_string_lossy()));
                make + &self.rename(&file, &quoted(to))
            }
            Remedy::Delete if self == Shell::PowerShell => format!("Remove-Item -LiteralPath {file}"),
            Remedy::Delete => format!("rm {file}"),
            Remedy::Compare(other) => format!("trinart-ckpt diff {file} {}", quoted(other)),
            Remedy::Inspect => format!("trinart-ckpt inspect {file}"),
        }
    }

    /// The beginning of a command that makes a folder first.
    fn make_folder(self, folder: &str) -> String {
        let folder = self.quoted(folder);
        match self {
            Shell::Posix => format!("mkdir -p {folder} && "),
            Shell::PowerShell => format!("$null = New-Item -ItemType Directory -Force -Path {folder}; "),
        }
    }

    /// The command that renames a file, unless there is one of the new name.
    fn rename(self, from: &str, to: &str) -> String {
        match self {
            Shell::Posix => format!("mv -n {from} {to}"),
            Shell::PowerShell => format!("Move-Item -LiteralPath {from} -Destination {to}"),
        }
    }

    /// Quotes an argument, if it must be quoted.
    fn quoted(self, text: &str) -> String {
        let plain = if self == Shell::Posix { "/._-+=:,@%" } else { "/\\._-:" };
        let is_plain = |letter: char| letter.is_alphanumeric() || plain.contains(letter);
        if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-') {
            return text.to_owned();
        }
        // What begins with a dash would be an option.
        let dot = if text.starts_with('-') { "./" } else { "" };
        let text = match self {
            Shell::Posix => text.replace('\'', "'\\''"),
            // PowerShell takes typographic quotes for plain ones. Two of any stand for one.
            Shell::PowerShell => text.chars().fold(String::new(), |mut quoted, letter| {
                quoted.extend(std::iter::repeat_n(letter, if "'‘’‚‛".contains(letter) { 2 } else { 1 }));
                quoted
            }),
        };
        format!("'{dot}{text}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_a_shell_would_change() {
        for (text, posix, power_shell) in [
            ("a/b-c_1.ckpt", "a/b-c_1.ckpt", "a/b-c_1.ckpt"),
            ("モデル.ckpt", "モデル.ckpt", "モデル.ckpt"),
            ("a b.ckpt", "'a b.ckpt'", "'a b.ckpt'"),
            ("it's.ckpt", "'it'\\''s.ckpt'", "'it''s.ckpt'"),
            ("it’s.ckpt", "'it’s.ckpt'", "'it’’s.ckpt'"),
            ("-rf", "'./-rf'", "'./-rf'"),
            ("$(x)", "'$(x)'", "'$(x)'"),
            ("a,b.ckpt", "a,b.ckpt", "'a,b.ckpt'"),
            (r"C:\a\b.ckpt", r"'C:\a\b.ckpt'", r"C:\a\b.ckpt"),
            ("", "''", "''"),
        ] {
            assert_eq!((Shell::Posix.quoted(text), Shell::PowerShell.quoted(text)), (posix.into(), power_shell.into()));
        }
    }

    #[test]
    fn words_each_remedy_for_the_shell() {
        let both = |remedy: &Remedy| [Shell::Posix, Shell::PowerShell].map(|shell| shell.command("a b.ckpt", remedy));
        let to = |name: &str| name.to_owned();
        let moved = both(&Remedy::Move(to("no folder/a b.ckpt")));
        assert_eq!(moved[0], "mkdir -p 'no folder' && mv -n 'a b.ckpt' 'no folder/a b.ckpt'");
        let make = "$null = New-Item -ItemType Directory -Force -Path 'no folder'; ";
        assert_eq!(moved[1], format!("{make}Move-Item -LiteralPath 'a b.ckpt' -Destination 'no folder/a b.ckpt'"));
        assert_eq!(both(&Remedy::Delete), ["rm 'a b.ckpt'", "Remove-Item -LiteralPath 'a b.ckpt'"]);
        let all = [
            (Remedy::Sanitize(to("c.ckpt")), "trinart-ckpt convert 'a b.ckpt' --sanitize -o c.ckpt"),
            (Remedy::Scan, "trinart-ckpt scan 'a b.ckpt'"),
            (Remedy::MergeVae(to("c.ckpt")), "trinart-ckpt merge-vae 'a b.ckpt' --vae VAE -o c.ckpt"),
            (Remedy::Repair(to("c.ckpt")), "trinart-ckpt convert 'a b.ckpt' --repair -o c.ckpt"),
            (Remedy::FixPositionIds, "trinart-ckpt convert 'a b.ckpt' --fix-position-ids -o 'a b.ckpt' --force"),
            (Remedy::Prune(to("c.ckpt")), "trinart-ckpt convert 'a b.ckpt' --prune -o c.ckpt"),
            (Remedy::Compare(to("c.ckpt")), "trinart-ckpt diff 'a b.ckpt' c.ckpt"),
            (Remedy::Inspect, "trinart-ckpt inspect 'a b.ckpt'"),
        ];
        for (remedy, command) in all {
            assert_eq!(both(&remedy), [command, command]);
        }
    }
}
