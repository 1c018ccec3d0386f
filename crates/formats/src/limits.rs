//! Every bound on what a file may make this program do, with its reason.
//!
//! No number read from a file sizes an allocation, an index or a recursion beyond these bounds. The figures in
//! parentheses are what a real Stable Diffusion checkpoint needs.

/// Bytes of an object pickle: `data.pkl`, or the object of a legacy file (134 KB). A pickle is held in memory whole.
pub const PICKLE_BYTES: u64 = 32 << 20;

/// Values built by one pickle (30,000). The largest, a call, takes about 140 bytes: this bounds the arena to 140 MB.
pub const PICKLE_NODES: usize = 1_000_000;

/// Values on a pickle's stack (3,000: the items of a dict are pushed by the thousand).
pub const PICKLE_STACK: usize = 1_000_000;

/// Opcodes in one pickle (36,000). Bounds the time of a pickle whose opcodes build nothing.
pub const PICKLE_OPCODES: u64 = 20_000_000;

/// Entries of a pickle's memo (9,000).
pub const PICKLE_MEMO: usize = 500_000;

/// Open marks in a pickle (3). CPython's pickler stops near 1,000 levels of nesting.
pub const PICKLE_MARKS: usize = 100_000;

/// Decimal digits of an integer in text form. CPython has the same default limit, because parsing takes quadratic time.
pub const INTEGER_DIGITS: usize = 4300;

/// Bytes of a module or class name in a pickle; real names stay under 100.
pub const GLOBAL_NAME_BYTES: usize = 1024;

/// Bytes of all names in a pickle, each counted once (1 KB). Names built from memoized pieces can outgrow the file.
pub const GLOBAL_NAMES_BYTES: usize = 4 << 20;

/// Distinct names in a pickle (13).
pub const GLOBAL_NAMES: usize = 100_000;

/// Names of one danger level that are listed individually, per pickle (13).
pub const FINDINGS: usize = 1000;

/// Nesting depth of pickles and zips that a scan follows (1).
pub const SCAN_DEPTH: usize = 8;

/// Consecutive pickles that a scan reads (5, in legacy files).
pub const SCAN_STACKED: usize = 1000;

/// Most gzip or zlib streams that follow one another. Each costs some microseconds, even if it is empty.
pub const SCAN_STREAMS: usize = 100_000;

/// Bytes of pickles that a scan reads per file, and bytes that it inflates, each repetition counted (134 KB). Bounds the
/// time of a zip whose records all refer to the same bytes.
pub const SCAN_BYTES: u64 = 64 << 20;

/// Values of all pickles that a scan reads per file (30,000). Bounds the time of many pickles that are small in bytes.
pub const SCAN_VALUES: usize = 4 * PICKLE_NODES;

/// Records of all zips that a scan reads per file, including those that no directory lists (1,147). A zip counts as a
/// hundred. Bounds the time of nested zips.
pub const SCAN_RECORDS: usize = 2 * ZIP_ENTRIES;

/// Files of a folder that are listed (10,000). Bounds the memory for their paths to 150 MB.
pub const FOLDER_FILES: usize = 500_000;

/// Bytes of a tensor's key (110).
pub const KEY_BYTES: usize = 4096;

/// Bytes of all keys of a state dict (120 KB). A report has a few copies of each.
pub const KEYS_BYTES: usize = 16 << 20;

/// Bytes of a storage's name (20). The name is repeated for every tensor.
pub const STORAGE_KEY_BYTES: usize = 128;

/// Dimensions of a tensor; torch has the same maximum.
pub const RANK: usize = 64;

/// Tensors in one file (1,831). Bounds the memory for their descriptions to 150 MB.
pub const TENSORS: usize = 75_000;

/// Nesting depth of metadata values that are kept; deeper values stay opaque.
pub const METADATA_DEPTH: usize = 64;

/// Metadata values taken from one pickle; the rest stays opaque. Bounds the copies that a subtree with many references
/// causes.
pub const METADATA_VALUES: usize = 200_000;

/// Bytes of text taken from one pickle as metadata (2 KB). A text with many references is copied for each.
pub const METADATA_TEXT_BYTES: usize = 16 << 20;

/// Values visited per file to describe its opaque values.
pub const DESCRIBED_VALUES: usize = 1_000_000;

/// Opaque values that are listed individually (5); the rest is counted. An entry takes about a hundred bytes, a value in
/// the file can take two.
pub const OPAQUE_LISTED: usize = 10_000;

/// Calls nested around a tensor (`_rebuild_parameter(_rebuild_from_type_v2(…))`); torch writes two.
pub const REBUILD_DEPTH: usize = 8;

/// Records in a zip container (1,147): one per tensor, and a few more.
pub const ZIP_ENTRIES: usize = 110_000;

/// Bytes of the small text records (`version`, `byteorder`) (7).
pub const ZIP_TEXT_RECORD: u64 = 4096;

/// Bytes of output per byte of input that deflate can reach (1032), with a margin. A file that claims more is forged.
pub const INFLATE_RATIO: u64 = 1100;

/// How many times larger than its file all deflated storages may be together (1.1; a model that is mostly zeros, 5). Deflate
/// reaches a thousand for zeros. Bounds the time by the size of the file. See [`INFLATED_BYTES`].
pub const INFLATED_GROWTH: u64 = 16;

/// Bytes that the deflated storages of a file may always have together, whatever [`INFLATED_GROWTH`] allows: small models
/// of zeros.
pub const INFLATED_BYTES: u64 = 512 << 20;

/// Bytes of an inflated storage that are kept in memory; a larger one goes into a temporary file. A thread holds one or a
/// few.
pub const HELD_BYTES: u64 = 1 << 20;

/// Bytes of transposed tensors that are kept in memory, together; others go into a temporary file. Enough for a matrix of
/// 6144 x 6144 elements in f32, and for blocks of another one.
pub const GATHERED_BYTES: u64 = 168 << 20;

/// Bytes of a safetensors header (130 KB); the maximum of the format itself. It is read as a stream.
pub const SAFETENSORS_HEADER: u64 = 100_000_000;

/// Bytes of a safetensors header that is parsed from memory (350 KB for SDXL); a longer one is
/// parsed as a stream. Shorter than [`METADATA_BYTES`], so that no string in it must be shortened.
pub const SAFETENSORS_HEADER_HELD: u64 = 2 << 20;

/// Metadata fields of a safetensors header that are kept (60); the others are listed as dropped.
pub const METADATA_FIELDS: usize = 10_000;

/// Bytes of metadata of a safetensors header that are kept (100 KB, where a training tool lists its tags); fields beyond are
/// listed as dropped. Every output gets a copy.
pub const METADATA_BYTES: usize = 16 << 20;

/// Metadata fields that are listed as dropped; the rest is counted.
pub const METADATA_DROPPED: usize = 1000;

/// Bytes of an index of shards (100 KB: it has a line for each tensor), or of a vocabulary (2 MB).
pub const JSON_FILE: u64 = 16 << 20;

/// Bytes of the `.yaml` beside a checkpoint (4 KB).
pub const YAML_FILE: u64 = 64 << 10;

/// Nesting depth of the `.yaml` beside a checkpoint (8).
pub const YAML_DEPTH: usize = 64;

/// Bytes of the keys that lead to a value in the `.yaml` beside a checkpoint (70). Values behind longer ones are not kept:
/// each value has a copy of its keys.
pub const YAML_KEYS_BYTES: usize = 512;

/// Bytes of a configuration beside weights (2 KB). Parsed JSON takes up to fifty times as much memory.
pub const CONFIG_FILE: u64 = 1 << 20;

/// Bytes of all vocabularies and configurations of a folder (4 MB), which are kept until they are written.
pub const COMPANION_BYTES: usize = 48 << 20;

/// How many times larger than their storages in the file all tensors of a file may be (1): a stride of 0 turns four bytes
/// into any number of elements. A model whose tensors share storages has each of them twice or three times. Counts what is
/// read for a tensor where that is more. See [`VIEW_BYTES`].
pub const VIEW_GROWTH: u64 = 16;

/// Bytes that the tensors of a file may always have together, whatever [`VIEW_GROWTH`] allows: expanded constants.
pub const VIEW_BYTES: u64 = 512 << 20;

/// Bytes of a tensor that describes a quantized weight, as JSON or as a table (1 KB). They are read to plan a conversion.
pub const QUANTIZATION_BYTES: u64 = 64 << 10;

/// Scales in a row of a matrix that is scaled in tiles (96: a row of 12,288 elements in tiles of 128).
pub const TILE_COLUMNS: u64 = 1 << 16;

/// Bytes of one tensor and of one output file: the maximum of a file offset.
pub const FILE_BYTES: u64 = i64::MAX as u64;

/// Ranks of a LoRA's module whose singular values are computed (4 to 128). Bounds the memory to 25 MB for each of a few threads, and
/// the time, which grows with the third power, to seconds.
pub const LORA_RANKS: usize = 1024;
