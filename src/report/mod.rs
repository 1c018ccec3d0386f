//! Reports: results as text for people and as JSON for scripts. Text from files is escaped here.

mod components;
mod difference;
mod document;
mod hashes;
mod inspection;
mod published_file;
#[cfg(feature = "render")]
mod render;
mod scan;
mod units;
mod write_report;

pub use components::{ComponentSummary, components};
pub use difference::{ComparedTensors, Difference};
pub use document::{SCHEMA, to_json};
pub use hashes::Hashes;
pub use inspection::Inspection;
pub use published_file::PublishedFile;
#[cfg(feature = "render")]
pub use render::RenderCheckReport;
#[cfg(feature = "render")]
pub(crate) use render::RenderPaths;
pub use scan::{FindingReport, ScanReport, ScannedFile, Verdict};
use units::count;
pub use units::size;
pub use write_report::{Failure, LeftOut, Merged, VaeReport, VaeSummary, WriteReport};
