//! What a render check says.

use std::fmt::Write;

use serde::Serialize;

use crate::error::printable;
use crate::render::checks::{Check, Verdict};
use crate::render::picture::PictureComparison;
use crate::render::pipeline::Timings;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) checkpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vae: Option<String>,
    pub(super) picture: String,
    /// The contact sheet, where there was something to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sheet: Option<String>,
    /// Where it was computed, and in what.
    pub(super) device: String,
    /// What was added up in what, and how.
    pub(super) arithmetic: String,
    /// The type of the weights.
    pub(super) dtype: String,
    /// Pass or fail: no check failed, or one did.
    pub(super) verdict: Verdict,
    pub(super) checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<Against>,
    /// As in the picture.
    pub(super) parameters: String,
    pub(super) seconds: Timings,
    /// The most memory the program had, in bytes.
    pub(super) peak_memory: Option<u64>,
    /// The most memory of the card that was taken at a time, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_device_memory: Option<u64>,
}

/// The comparison with another picture, or with another checkpoint's.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    pub(super) file: String,
    #[serde(flatten)]
    pub(super) comparison: PictureComparison,
    /// Of the latents, where the other is a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latent: Option<LatentDistance>,
}

/// How far the latents of two checkpoints lie apart.
#[derive(Debug, Serialize)]
pub(super) struct LatentDistance {
    /// Bit by bit the same.
    pub(super) identical: bool,
    /// The length of the difference over that of ours.
    pub(super) relative: f64,
    /// The cosine of the angle between them.
    pub(super) cosine: f64,
}

/// The most memory the program had, where the system tells.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

impl Report {
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        let vae = self.vae.as_ref().map(|vae| format!(" with {}", printable(vae))).unwrap_or_default();
        let _ = writeln!(out, "{}{vae} -> {}", printable(&self.checkpoint), printable(&self.picture));
        for line in self.parameters.lines() {
            let _ = writeln!(out, "  {}", printable(line));
        }
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Pass => "pass",
                Verdict::Warning => "warning",
                Verdict::Repaired => "repaired",
                Verdict::Fail => "FAIL",
                Verdict::Info => "-",
            };
            let _ = write!(out, "  {verdict:<8}  {:<16} {}", check.name, printable(&check.found));
            let is_said = !matches!(check.verdict, Verdict::Pass | Verdict::Info);
            let _ = if is_said { writeln!(out, " (expected {})", check.expected) } else { writeln!(out) };
        }
        if let Some(sheet) = &self.sheet {
            let _ = writeln!(out, "  sheet     {}", printable(sheet));
        }
        let Timings { text, load, sampling, decode, calls: _ } = &self.seconds;
        let memory = self.peak_memory.map(|bytes| format!(", {} of memory", crate::report::size(bytes)));
        let of_device = self.peak_device_memory.map(|bytes| format!(", {} of the card's", crate::report::size(bytes)));
        let _ = writeln!(out, "  device    {}, {}", printable(&self.device), self.arithmetic);
        let _ = writeln!(
            out,
            "  time      text {text:.1} s, load {load:.1} s, sampling {sampling:.1} s, decode {decode:.1} s{}{}",
            memory.unwrap_or_default(),
            of_device.unwrap_or_default()
        );
        let _ = writeln!(out, "{}", if self.verdict == Verdict::Pass { "PASS" } else { "FAIL" });
        out
    }
}
