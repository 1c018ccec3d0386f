//! Every bound on what a file may ask of this program, each with its reason.
//!
//! No number read from a file sizes an allocation, indexes or recurses beyond these. In parentheses: what a real Stable
//! Diffusion checkpoint needs.

/// Bytes of one object pickle (`data.pkl`, or the object of a legacy file) (134 KB). A pickle is held in memory whole.
pub const PICKLE_BYTES: u64 = 32 << 20;

/// Values one pickle may build (30,000). A call is the largest, at about 140 bytes; this bounds the arena to 140 MB.
pub const PICKLE_NODES: usize = 1_000_000;

/// Values on a pickle's stack (3,000: a dict's items come by the thousand).
pub const PICKLE_STACK: usize = 1_000_000;

/// Opcodes one pickle may hold (36,000). Bounds the time of a pickle whose opcodes build nothing.
pub const PICKLE_OPCODES: u64 = 20_000_000;

/// Entries of the memo (9,000).
pub const PICKLE_MEMO: usize = 500_000;

/// Marks open at once (3). CPython's pickler stops near 1,000 levels of nesting.
pub const PICKLE_MARKS: usize = 100_000;

/// Decimal digits of an integer in text form; CPython refuses more by default, because parsing them is quadratic.
pub const INTEGER_DIGITS: usize = 4300;

/// Bytes of a module or class name in a pickle; real ones stay under 100.
pub const GLOBAL_NAME_BYTES: usize = 1024;

/// Bytes of all names in a pickle, each counted once (1 KB). Names made of memoised pieces weigh more than the file.
pub const GLOBAL_NAMES_BYTES: usize = 4 << 20;

/// Different names in a pickle (13).
pub const GLOBAL_NAMES: usize = 100_000;

/// Names of one level that are listed one by one, of one pickle (13).
pub const FINDINGS: usize = 1000;

/// Pickles within pickles, and zips within zips, that a scan goes into (1).
pub const SCAN_DEPTH: usize = 8;

/// Pickles one behind another that a scan looks at (5, in legacy files).
pub const SCAN_STACKED: usize = 1000;

/// Bytes of pickles that a scan looks through in one file, and bytes that it inflates, some of them again and again
/// (134 KB). Bounds the time of a zip whose records all lie on the same bytes.
pub const SCAN_BYTES: u64 = 64 << 20;

/// Values of all pickles that a scan looks through in one file (30,000). Bounds the time of many that are small in
/// bytes.
pub const SCAN_VALUES: usize = 4 * PICKLE_NODES;

/// Records of all zips within a file that a scan looks at, those that no directory lists among them (1,147). A zip counts
/// as a hundred. Bounds the time of zips that lie within one another.
pub const SCAN_RECORDS: usize = 2 * ZIP_ENTRIES;

/// Bytes of a tensor's key (110).
pub const KEY_BYTES: usize = 4096;

/// Bytes of a storage's name (20). It is repeated for every tensor.
pub const STORAGE_KEY_BYTES: usize = 128;

/// Dimensions of a tensor; torch's own maximum is 64.
pub const RANK: usize = 64;

/// Tensors in one file (1,831). Bounds what is kept of them to 150 MB.
pub const TENSORS: usize = 75_000;

/// Levels of nesting followed inside a plain metadata value; deeper values stay opaque.
pub const PLAIN_DEPTH: usize = 64;

/// Values taken out of one pickle as plain metadata; what is over stays opaque. Bounds the copies that a shared
/// subtree, referenced again and again, could ask for.
pub const PLAIN_VALUES: usize = 200_000;

/// Bytes of text taken out of one pickle as plain metadata (2 KB): a text that is referred to again and again is copied
/// each time.
pub const PLAIN_BYTES: usize = 16 << 20;

/// Values looked at, in one file, to put into words what the opaque ones are.
pub const DESCRIBED_VALUES: usize = 1_000_000;

/// Opaque values listed one by one (5); what is over is counted. A line costs a hundred bytes, its value perhaps two.
pub const OPAQUE_LISTED: usize = 10_000;

/// Calls folded into one another around a tensor (`_rebuild_parameter(_rebuild_from_type_v2(…))`); torch writes two.
pub const REBUILD_DEPTH: usize = 8;

/// Records in a zip container (1,147): one per tensor, and some.
pub const ZIP_ENTRIES: usize = 110_000;

/// Bytes of the small text records (`version`, `byteorder`) (7).
pub const ZIP_TEXT_RECORD: u64 = 4096;

/// Bytes out per byte in that deflate can reach (1032), with some air; a claim above it is a lie.
pub const INFLATE_RATIO: u64 = 1100;

/// Times that one deflated storage is inflated, in bytes of its length (1: whoever reads it holds it). Tensors that are
/// views of two storages in turns could ask for each again and again.
pub const INFLATE_TIMES: u64 = 8;

/// Bytes within which [`INFLATE_TIMES`] does not count.
pub const INFLATE_BYTES: u64 = 1 << 20;

/// Bytes of a safetensors header (130 KB); the format's own maximum.
pub const SAFETENSORS_HEADER: u64 = 100_000_000;

/// Fields of metadata in a safetensors header (60).
pub const METADATA_FIELDS: usize = 10_000;

/// Bytes of metadata in a safetensors header (100 KB, where a training tool lists its tags). It is copied into every
/// output.
pub const METADATA_BYTES: usize = 16 << 20;

/// Bytes of a configuration or index beside weights (100 KB: an index has a line for each tensor).
pub const JSON_FILE: u64 = 16 << 20;

/// Bytes a strided view may grow to over its storage: a stride of 0 turns four bytes into any number of elements.
/// A view within [`VIEW_BYTES`] is always fine.
pub const VIEW_GROWTH: u64 = 16;

/// See [`VIEW_GROWTH`].
pub const VIEW_BYTES: u64 = 1 << 30;

/// Bytes one tensor, and one output file, may have: what a file offset can say.
pub const FILE_BYTES: u64 = i64::MAX as u64;
