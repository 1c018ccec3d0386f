//! Components of other files in the output of a conversion.

use std::path::Path;
use std::sync::Arc;

use super::output::{Mode, OutputOptions};
use super::vae_file;
use crate::report::{LeftOut, Merged, PartReport, VaeReport, VaeSummary, WriteReport};
use trinart_ckpt_formats::io::{Progress, Source};
use trinart_ckpt_formats::{Result, Target};
use trinart_ckpt_models::ledger::{Disposition, Origin};
use trinart_ckpt_models::plan::assemble::{self, AssembleOptions, Assembled, Parts};
use trinart_ckpt_models::plan::record::{self, PartIdentity};
use trinart_ckpt_models::plan::{Resolved, merge_vae};
use trinart_ckpt_models::published::PublishedFile;
use trinart_ckpt_models::{Checkpoint, hash, vae};

/// The components to replace, and how.
#[derive(Clone)]
pub(super) struct Replacements<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) options: AssembleOptions,
    pub(super) allow_withdrawn: bool,
}

/// A checkpoint with components of other files, and what is known about these files.
pub(super) struct Replaced<'a> {
    pub(super) assembled: Assembled,
    parts: Parts<'a>,
    reports: Vec<PartReport>,
    /// The published file that the VAE is.
    published: Option<&'static PublishedFile>,
    /// The VAE of the checkpoint.
    before: Option<VaeSummary>,
}

impl<'a> Replacements<'a> {
    pub(super) fn new(parts: Parts<'a>) -> Self {
        Replacements { parts, options: AssembleOptions::default(), allow_withdrawn: false }
    }

    /// Replaces the components, hashes the files and records them in the metadata.
    pub(super) fn apply(&self, base: Option<&Checkpoint>, output: &OutputOptions<'_>) -> Result<Replaced<'a>> {
        let mut options = self.options;
        options.overflow = output.overflow;
        // Planning comes before hashing: headers can rule out a replacement.
        let mut assembled = assemble::plan(base, &self.parts, &options)?;
        let mut published = None;
        let mut reports = Vec::new();
        for (origin, file) in self.parts.all() {
            let sha256 = match origin {
                Origin::Vae => {
                    let (sha256, found) = vae_file::identify(file, self.allow_withdrawn, output.progress)?;
                    let Assembled { checkpoint, resolved, .. } = &mut assembled;
                    let allow = options.allow_family_mismatch;
                    vae_file::check_family(checkpoint, file, &sha256, allow, resolved)?;
                    published = found;
                    vec![sha256]
                }
                _ => hashes(&assembled.resolved, origin, file, output.progress)?,
            };
            reports.push(PartReport { component: origin, file: file.path().to_string_lossy().into_owned(), sha256 });
        }
        let identities: Vec<PartIdentity> = self
            .parts
            .all()
            .zip(&reports)
            .map(|((origin, file), report)| PartIdentity {
                origin,
                name: file.file_name(),
                sha256: report.sha256.clone(),
            })
            .collect();
        let identity = base.map(|base| vae_file::identify_base(base, output.progress)).transpose()?.flatten();
        let of_base = base.zip(identity.as_ref());
        record::record(&mut assembled.resolved.metadata, "trinart-ckpt convert", of_base, &identities);
        assembled.checkpoint = assembled.checkpoint.with_metadata(assembled.resolved.metadata.clone());
        let before = match base.filter(|_| self.parts.vae.is_some()) {
            Some(base) => vae_file::summary(output, base.state_dict(), merge_vae::is_of_old_vae)
                .map_err(|error| error.in_file(base.path()))?,
            None => None,
        };
        Ok(Replaced { assembled, parts: self.parts, reports, published, before })
    }
}

impl Replaced<'_> {
    /// Writes what a conversion makes of the checkpoint.
    pub(super) fn write(
        self,
        input: &Checkpoint,
        output: &OutputOptions<'_>,
        path: &Path,
        target: Target,
        converted: Resolved,
        mode: Mode,
    ) -> Result<WriteReport> {
        let Replaced { assembled, parts, reports, published, before } = self;
        let mut output = output.clone();
        output.replaces_unet = assembled.parameterization.is_some();
        output.found = assembled.parameterization.or(output.found);
        output.others = parts.all().map(|(origin, file)| (origin, file.path().to_owned())).collect();
        let resolved = assembled.resolved.then(converted)?;
        let after = match parts.vae {
            Some(_) => vae_file::summary(&output, &resolved.state_dict, vae::is_checkpoint_key)
                .map_err(|error| output.at_input(error, &resolved.ledger, input))?,
            None => None,
        };
        let mut report = output.write(input, path, target, resolved, mode)?;
        for (_, file) in parts.all() {
            report.left_out.extend(LeftOut::opaque(file.stored()).into_iter().map(|mut left_out| {
                left_out.path = format!("{}: {}", file.file_name(), left_out.path);
                left_out
            }));
        }
        let of_vae = reports.iter().find(|report| report.component == Origin::Vae);
        report.vae = of_vae.zip(after).map(|(file, after)| VaeReport {
            file: file.file.clone(),
            sha256: file.sha256.concat(),
            published,
            sidecar: false,
            merged: match &before {
                Some(before) if before.content_hash == after.content_hash => Merged::Same,
                _ => Merged::Changed,
            },
            before,
            after,
        });
        report.replaced = reports;
        Ok(report)
    }
}

/// Returns the sha256 of each file that holds tensors of a component.
fn hashes(resolved: &Resolved, origin: Origin, file: &Checkpoint, progress: &dyn Progress) -> Result<Vec<String>> {
    let lines = resolved.ledger.lines().iter().filter(|line| line.from == origin);
    let mut keys: Vec<&str> = Vec::new();
    for line in lines {
        if let Disposition::Written { key, .. } = &line.disposition {
            keys.push(key);
        }
    }
    let tensors = || keys.iter().filter_map(|key| resolved.state_dict.get(key));
    let holds = |source: &&Arc<Source>| {
        tensors().flat_map(|tensor| tensor.storages()).any(|storage| Arc::ptr_eq(storage.source(), source))
    };
    let sources = file.stored().sources().iter().filter(holds);
    sources.map(|source| hash::file_sha256(source, progress)).collect()
}
