//! The report of a render check.

use std::fmt::Write;

use serde::Serialize;

use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_render::checks::{Check, Verdict};
use trinart_ckpt_render::job::{AgainstReport, RenderReport};
use trinart_ckpt_render::pipeline::Timings;

/// The paths of a render check, as the report shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RenderPaths {
    pub(crate) checkpoint: String,
    pub(crate) vae: Option<String>,
    pub(crate) refiner: Option<String>,
    pub(crate) picture: String,
    pub(crate) sheet: Option<String>,
}

/// The result of a render check, as [`RenderCheck`](crate::RenderCheck) returns it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RenderCheckReport {
    /// The path of the checkpoint.
    pub checkpoint: String,
    /// The path of the VAE that replaced the checkpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// The path of the refiner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// The path of the picture.
    pub picture: String,
    /// The path of the contact sheet of the comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sheet: Option<String>,
    /// The device.
    pub device: String,
    /// The dtypes of weights, values and sums.
    pub arithmetic: String,
    /// The dtype of the weights.
    pub dtype: Dtype,
    /// [`Verdict::Fail`] if a check failed, otherwise [`Verdict::Pass`].
    pub verdict: Verdict,
    /// The checks.
    pub checks: Vec<Check>,
    /// The comparison with another picture or checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstReport>,
    /// The `parameters` of the picture, as WebUI writes them.
    pub parameters: String,
    /// The time of each stage in seconds.
    pub seconds: Timings,
    /// The peak memory use of the process in bytes, on Linux.
    pub peak_memory: Option<u64>,
    /// The peak memory use on the GPU in bytes; `None` on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_memory: Option<u64>,
}

impl RenderCheckReport {
    /// Returns the report of a render check with these paths.
    pub(crate) fn new(report: &RenderReport, paths: RenderPaths) -> Self {
        RenderCheckReport {
            checkpoint: paths.checkpoint,
            vae: paths.vae,
            refiner: paths.refiner,
            picture: paths.picture,
            sheet: paths.sheet,
            device: report.device.clone(),
            arithmetic: report.arithmetic.clone(),
            dtype: report.settings.dtype,
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
        let refiner = self.refiner.as_ref().map_or_else(String::new, |path| format!(" and {}", printable(path)));
        let _ = writeln!(out, "{}{vae}{refiner} -> {}", printable(&self.checkpoint), printable(&self.picture));
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
