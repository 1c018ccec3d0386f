//! Reports: the results of operations as values, as text for people, and as JSON for scripts.
//!
//! Each report is a struct with public fields. It serializes as the JSON that the program prints, and `to_text` formats
//! it for people, with control characters from files escaped. `to_text_with` adds a program's own words for what to do next;
//! see [`Tip`].

mod audit;
mod batch;
mod colors;
mod components;
mod difference;
mod document;
mod failure;
mod folder_difference;
mod hashes;
mod inspection;
mod lora;
mod lora_fit;
mod position_ids;
#[cfg(feature = "render")]
mod render;
mod scan;
mod tip;
mod tree;
mod units;
mod write_report;

pub use audit::{
    AuditFinding, AuditLine, AuditReport, AuditSummary, AuditedFile, AuditedHashes, FindingCode, LineFile, Remedy,
    RemedyWords, VaeState,
};
pub use batch::{BatchOutcome, BatchSummary, SkipReason};
#[cfg(feature = "cli")]
pub(crate) use colors::BAD;
pub use colors::Colors;
pub(crate) use components::components;
pub use components::{ComponentSummary, DtypeSummary};
pub(crate) use difference::ComparedTensors;
pub use difference::{ComponentDifference, Difference, KeyDifference, NonFiniteSides, TensorDifference, TensorSummary};
pub use document::{SCHEMA, to_json, to_json_line};
pub use failure::Failure;
pub use folder_difference::{FileDifference, FileResult, FolderDifference, FolderDifferenceSummary};
pub use hashes::Hashes;
pub(crate) use inspection::Contents;
pub use inspection::{Inspection, TensorEntry};
pub use position_ids::PositionIds;
#[cfg(feature = "render")]
pub use render::RenderCheckReport;
#[cfg(feature = "render")]
pub(crate) use render::RenderPaths;
pub use scan::{FindingReport, ScanReport, ScanSummary, ScanVerdict, ScannedFile};
pub use tip::{Tip, TipWords};
pub use tree::TensorTree;
pub(crate) use units::count;
pub use units::size;
pub use write_report::{LeftOut, Merged, PartReport, VaeReport, VaeSummary, WriteReport};
