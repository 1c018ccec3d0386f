//! What `--help` and the manual say about a command besides its options: examples and exit codes.
//!
//! The tests run every example in a folder with the files that the examples name; those of `render-check` up to the
//! render.

use std::fmt::Write;

use clap::builder::StyledStr;

use super::styles::STYLES;

/// The examples and exit codes of a command.
pub(super) struct Page {
    /// The name of the command.
    pub command: &'static str,
    /// What to do, and the arguments that do it.
    pub examples: &'static [(&'static str, &'static str)],
    /// The exit codes and their meanings.
    pub exit_codes: &'static [(u8, &'static str)],
}

const WRITES: &[(u8, &str)] =
    &[(0, "the output is written and verified"), (1, "the output differs from the plan"), (2, "error; no output")];

const READS: &[(u8, &str)] = &[(0, "success"), (2, "error")];

/// The exit codes of the program.
pub(super) const EXIT_CODES: &[(u8, &str)] =
    &[(0, "success"), (1, "negative result: different, dangerous, check failed"), (2, "error")];

/// The pages of all commands.
pub(super) const PAGES: &[Page] = &[
    Page {
        command: "merge-vae",
        exit_codes: WRITES,
        examples: &[
            ("Put a VAE into a checkpoint", "merge-vae model.ckpt --vae vae.pt -o merged.safetensors"),
            ("Use the VAE beside the checkpoint (model.vae.pt)", "merge-vae model.safetensors -o merged.ckpt"),
            ("Put a VAE into each checkpoint of a folder", "merge-vae models/ --vae vae.pt --out-dir merged"),
            ("Show what a merge would do", "merge-vae model.ckpt --vae vae.pt -o new.ckpt --dry-run"),
        ],
    },
    Page {
        command: "convert",
        exit_codes: WRITES,
        examples: &[
            ("Convert a .ckpt to safetensors", "convert model.ckpt -o model-new.safetensors"),
            ("Keep what inference needs, in f16", "convert model.ckpt -o small.safetensors --prune --dtype f16"),
            ("Make a diffusers folder", "convert model.safetensors -o folder/"),
            ("Make a single file from a folder", "convert diffusers/ -o single.safetensors"),
            ("Extract the VAE", "convert model.ckpt -o model-vae.safetensors --component vae"),
            ("Take tensors by name", "convert model.ckpt -o part.safetensors --select 'first_stage_model.*'"),
            ("Replace the text encoder", "convert model.ckpt --replace text-encoder=other.ckpt -o new.safetensors"),
            ("Repair a file", "convert model.ckpt --repair -o repaired.safetensors"),
            ("Convert several files", "convert model.ckpt other.ckpt --out-dir converted --to safetensors"),
            ("Convert a folder, with previews", "convert models/ --out-dir new --to safetensors --sidecars carry"),
        ],
    },
    Page {
        command: "audit",
        exit_codes: &[(0, "no findings"), (1, "findings"), (2, "error")],
        examples: &[
            ("Look through a folder, or a whole WebUI", "audit models/"),
            ("List only files with findings", "audit models/ --only-problems"),
            ("Find checkpoints without a VAE", "audit models/ --select no-vae,broken-vae"),
        ],
    },
    Page {
        command: "inspect",
        exit_codes: &[(0, "success"), (1, "a LoRA does not fit the checkpoint of --for"), (2, "error")],
        examples: &[
            ("Show what is in a file", "inspect model.ckpt"),
            ("List its tensors", "inspect model.ckpt --keys"),
            ("Find NaN and odd weights", "inspect vae.pt --stats"),
            ("Show which ranks of a LoRA matter", "inspect lora.safetensors --stats"),
            ("Check that a LoRA fits a checkpoint", "inspect lora.safetensors --for model.safetensors"),
            ("Inspect a folder, for a script", "inspect models/ --json"),
        ],
    },
    Page {
        command: "diff",
        exit_codes: &[(0, "equal"), (1, "different"), (2, "error")],
        examples: &[
            ("Compare two checkpoints", "diff model.ckpt model.safetensors"),
            ("Compare a diffusers folder with a file", "diff diffusers/ model.safetensors"),
            ("Compare only the VAEs, whatever their dtypes", "diff model.ckpt vae.pt --component vae --ignore dtype"),
            ("Measure how far two checkpoints are apart", "diff model.ckpt other.ckpt --stats"),
            ("Compare two folders", "diff models/ converted/"),
        ],
    },
    Page {
        command: "hash",
        exit_codes: READS,
        examples: &[
            ("Identify a file, and the VAE in it", "hash model.safetensors"),
            ("Hash several files, for a script", "hash model.ckpt vae.pt --json"),
        ],
    },
    Page {
        command: "scan",
        exit_codes: &[
            (0, "every file is safe"),
            (1, "a file is dangerous or unknown"),
            (2, "no file is, but one could not be scanned completely"),
        ],
        examples: &[
            ("Scan a folder and everything in it", "scan models/"),
            ("Show only what is dangerous or unknown", "scan -q models/"),
            ("Vouch for a data type that you trust", "scan models/ --allow ultralytics.nn.tasks.DetectionModel"),
        ],
    },
    #[cfg(feature = "render")]
    Page {
        command: "render-check",
        exit_codes: &[(0, "all checks passed"), (1, "a check failed"), (2, "error")],
        examples: &[
            ("Check that a checkpoint renders", "render-check model.safetensors -o check.png"),
            ("Do it quickly, for a first look", "render-check model.safetensors -o check.png --quick"),
            ("Render each checkpoint of a folder", "render-check models --out-dir pictures --quick"),
            ("See what another VAE changes", "render-check model.ckpt -o a.png --against merged.safetensors"),
            ("Render a picture of WebUI again", "render-check model.ckpt -o again.png --like picture.png"),
        ],
    },
    Page {
        command: "completions",
        exit_codes: READS,
        examples: &[
            ("Print the script for bash", "completions bash"),
            ("Print the script for PowerShell", "completions powershell"),
        ],
    },
    Page {
        command: "man",
        exit_codes: READS,
        examples: &[
            ("Print the whole manual", "man"),
            ("Print the page of one command", "man convert"),
            ("Write a page for each command", "man --out-dir pages"),
        ],
    },
];

/// Returns the page of a command.
pub(super) fn of(command: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.command == command)
}

impl Page {
    /// The end of the command's `--help`.
    pub(super) fn to_text(&self) -> StyledStr {
        let mut out = StyledStr::new();
        let (on, off) = header();
        let _ = write!(out, "{on}Examples:{off}");
        for (task, arguments) in self.examples {
            let _ = write!(out, "\n  # {task}\n  trinart-ckpt {arguments}");
        }
        let _ = write!(out, "\n\n{}", exit_codes(self.exit_codes).ansi());
        out
    }
}

/// The end of the program's `--help`.
pub(super) fn of_program() -> StyledStr {
    let mut out = exit_codes(EXIT_CODES);
    let _ = write!(out, "\n\nOptions, examples and exit codes of a command: trinart-ckpt COMMAND --help");
    out
}

fn exit_codes(codes: &[(u8, &str)]) -> StyledStr {
    let mut out = StyledStr::new();
    let (on, off) = header();
    let _ = write!(out, "{on}Exit codes:{off}");
    for (code, meaning) in codes {
        let _ = write!(out, "\n  {code}  {meaning}");
    }
    out
}

/// The escape sequences around a heading. clap removes them where it prints without colors.
fn header() -> (impl std::fmt::Display, impl std::fmt::Display) {
    let style = STYLES.get_header();
    (style.render(), style.render_reset())
}
