//! The report of a render check.

use std::fmt::Write;

use serde::Serialize;

use crate::formats::error::printable;
use crate::render::checks::{Check, Verdict};
use crate::render::job::{AgainstReport, RenderReport};
use crate::render::pipeline::Timings;

/// The paths of a render check, as the report shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RenderPaths {
    pub(crate) checkpoint: String,
    pub(crate) vae: Option<String>,
    pub(crate) picture: String,
    pub(crate) sheet: Option<String>,
}

/// A render check as text and as JSON.
#[derive(Debug, Serialize)]
pub struct RenderCheckReport {
    checkpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vae: Option<String>,
    picture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sheet: Option<String>,
    device: String,
    arithmetic: String,
    dtype: String,
    verdict: Verdict,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<AgainstReport>,
    parameters: String,
    seconds: Timings,
    /// In bytes.
    peak_memory: Option<u64>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_device_memory: Option<u64>,
}

impl RenderCheckReport {
    /// Returns the report of a render check with these paths.
    pub(crate) fn new(report: &RenderReport, paths: RenderPaths) -> Self {
        RenderCheckReport {
            checkpoint: paths.checkpoint,
            vae: paths.vae,
            picture: paths.picture,
            sheet: paths.sheet,
            device: report.device.clone(),
            arithmetic: report.arithmetic.clone(),
            dtype: report.settings.dtype.to_string(),
            verdict: report.verdict,
            checks: report.checks.clone(),
            against: report.against.clone(),
            parameters: report.infotext.to_text(),
            seconds: report.timings.clone(),
            peak_memory: report.peak_memory,
            peak_device_memory: report.peak_device_memory,
        }
    }

    /// Returns whether no check failed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    /// Formats the report for people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let vae = self.vae.as_ref().map_or_else(String::new, |vae| format!(" with {}", printable(vae)));
        let _ = writeln!(out, "{}{vae} -> {}", printable(&self.checkpoint), printable(&self.picture));
        for line in self.parameters.lines() {
            let _ = writeln!(out, "  {}", printable(line));
        }
        for check in &self.checks {
            write_check(&mut out, check);
        }
        if let Some(sheet) = &self.sheet {
            let _ = writeln!(out, "  sheet     {}", printable(sheet));
        }
        let Timings { text, load, sampling, decode, .. } = &self.seconds;
        let size = crate::report::size;
        let memory = self.peak_memory.map_or_else(String::new, |it| format!(", peak memory {}", size(it)));
        let gpu = self.peak_device_memory.map_or_else(String::new, |it| format!(", on the GPU {}", size(it)));
        let _ = writeln!(out, "  device    {}, {}", printable(&self.device), self.arithmetic);
        let _ = writeln!(
            out,
            "  time      text {text:.1} s, load {load:.1} s, sampling {sampling:.1} s, decode {decode:.1} s{memory}{gpu}"
        );
        let _ = writeln!(out, "{}", if self.verdict == Verdict::Pass { "PASS" } else { "FAIL" });
        out
    }
}

fn write_check(out: &mut String, check: &Check) {
    let verdict = match check.verdict {
        Verdict::Pass => "pass",
        Verdict::Warning => "warning",
        Verdict::Repaired => "repaired",
        Verdict::Fail => "FAIL",
        Verdict::Info => "-",
    };
    let _ = write!(out, "  {verdict:<8}  {:<16} {}", check.name, printable(&check.found));
    let _ = match check.verdict {
        Verdict::Pass | Verdict::Info => writeln!(out),
        Verdict::Warning | Verdict::Repaired | Verdict::Fail => writeln!(out, " (expected {})", check.expected),
    };
}
