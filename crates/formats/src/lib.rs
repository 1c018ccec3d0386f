//! Opens Stable Diffusion checkpoints safely: safetensors files, PyTorch files of any age, diffusers folders. Writes
//! them, and scans files for pickles that would run code.
//!
//! The crate reads pickles as data. It executes nothing in a file, and no number in a file sizes an allocation without a
//! named limit ([`limits`]). It knows no models: keys and tensors are what the file stores.
//!
//! # Open a checkpoint and list its tensors
//!
//! [`StoredCheckpoint::open`] detects the format by content, not by file name. It checks all headers and reads no tensor.
//!
//! ```
//! use trinart_ckpt_formats::{Container, Dtype, StoredCheckpoint};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let checkpoint = StoredCheckpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! assert_eq!(checkpoint.container(), Container::TorchZip);
//! for (key, tensor) in checkpoint.state_dict().iter().take(3) {
//!     println!("{key} {} {}", tensor.dtype(), tensor.shape());
//! }
//! let weight = checkpoint.state_dict().get("first_stage_model.encoder.conv_in.weight").unwrap();
//! assert_eq!((weight.dtype(), weight.shape().dims().len()), (Dtype::F32, 4));
//! # Ok(())
//! # }
//! ```
//!
//! # Read a tensor
//!
//! A [`LazyTensor`] reads its elements from the file when asked, as row-major little-endian bytes. Strides, byte order and
//! compression of the file do not show.
//!
//! ```
//! use trinart_ckpt_formats::StoredCheckpoint;
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let checkpoint = StoredCheckpoint::open("../../fixtures/tiny-sd1.safetensors")?;
//! let tensor = checkpoint.state_dict().get("first_stage_model.encoder.conv_in.bias").unwrap();
//! let all = tensor.to_bytes()?;
//! assert_eq!(all.len() as u64, tensor.bytes());
//!
//! // Two elements from index 1 on. Tensors of any size can be read in pieces.
//! let size = tensor.dtype().size();
//! let mut two = vec![0; 2 * size];
//! tensor.read(1, &mut two, None)?;
//! assert_eq!(two, all[size..3 * size]);
//! # Ok(())
//! # }
//! ```
//!
//! # Dangerous pickles
//!
//! Loading a pickle with Python runs the functions that it names. A checkpoint that names a dangerous one is an error by
//! default. [`OpenOptions`] can take only its tensors, or open it to report on it.
//!
//! ```
//! use trinart_ckpt_formats::{Hint, OpenOptions, StoredCheckpoint};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let path = "../../fixtures/hostile/calls-system.ckpt";
//! let error = StoredCheckpoint::open(path).unwrap_err();
//! assert!(error.to_string().contains("calls posix.system('true'), which runs commands"));
//! assert_eq!(error.hint(), Some(Hint::Sanitize));
//!
//! let tensors_only = StoredCheckpoint::open_with(path, &OpenOptions::new().sanitize())?;
//! assert_eq!(tensors_only.state_dict().len(), 1);
//! assert!(tensors_only.metadata().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Write a file
//!
//! [`containers::write`](containers::write()) writes a [`StateDict`] of tensors from files, from memory, or derived from
//! others by [`LazyTensor::cast`] and its siblings. The destination appears complete or not at all. By default the output
//! is read back and compared before it replaces anything, and an existing file is an error.
//!
//! ```
//! use trinart_ckpt_formats::containers::write;
//! use trinart_ckpt_formats::{
//!     Dtype, LazyTensor, Metadata, Overflow, Overwrite, PyValue, Shape, StateDict, StoredCheckpoint, Target, WriteOptions,
//! };
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! let values = [0.5_f32, -1.0, 2.0].map(f32::to_le_bytes).concat();
//! let bias = LazyTensor::owned(Dtype::F32, Shape::new([3])?, values)?;
//! let half = bias.clone().cast(Dtype::F16, Overflow::Refuse)?;
//! let mut state_dict = StateDict::new();
//! state_dict.insert("bias", bias)?;
//! state_dict.insert("bias.half", half)?;
//! let metadata = Metadata::from([("title".to_owned(), PyValue::Str("an example".to_owned()))]);
//!
//! let path = folder.path().join("example.safetensors");
//! let options = WriteOptions::default();
//! let written = write(&path, Target::Safetensors, &state_dict, &metadata, &options)?;
//! assert!(written.verified);
//! assert_eq!(StoredCheckpoint::open(&path)?.metadata(), &metadata);
//!
//! // The file exists now, and is replaced only on request.
//! assert!(write(&path, Target::Safetensors, &state_dict, &metadata, &options).is_err());
//! write(&path, Target::Safetensors, &state_dict, &metadata, &options.overwrite(Overwrite::Replace))?;
//!
//! // The same tensors as a file that PyTorch loads.
//! let path = folder.path().join("example.ckpt");
//! write(&path, Target::from_path(&path)?, &state_dict, &metadata, &options)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Scan a file
//!
//! [`scan_file`] finds every pickle in a file, also those that are nested, hidden or damaged, and rates each name by what
//! it lets the pickle do. [`FileScan::is_skipped`] tells files that no loader of models would run, such as images.
//!
//! ```
//! use trinart_ckpt_formats::{Level, scan_file};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let scan = scan_file("../../fixtures/hostile/calls-system.ckpt")?;
//! assert_eq!(scan.level(), Level::Dangerous);
//! assert_eq!(scan.findings[0].finding.name, "posix.system");
//!
//! let scan = scan_file("../../fixtures/tiny-sd1.safetensors")?;
//! assert_eq!((scan.level(), scan.pickles), (Level::Safe, 0));
//! // The findings are complete only if nothing prevented the scan.
//! assert!(scan.problem.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! Every operation returns an [`Error`]: a [`Kind`] to act on, the file, tensor and byte, and a message. It displays as
//! one line that is safe to print to a terminal. [`Error::hint`] suggests what to change.

pub mod containers;
pub mod danger;
pub mod error;
mod hexadecimal;
pub mod io;
pub mod limits;
pub mod metadata;
pub mod pickle;
pub mod scan;
mod serialize;
pub mod state_dict;
pub mod tensor;
pub mod walk;

pub use containers::{Container, Dangers, OpenOptions, StoredCheckpoint, Target, WriteOptions, Written};
pub use danger::Level;
pub use error::{Error, Hint, Kind, Result};
pub use hexadecimal::hexadecimal;
pub use io::{NoProgress, Overwrite, Progress};
pub use metadata::{Metadata, PyValue};
pub use scan::{FileScan, scan_file};
pub use state_dict::StateDict;
pub use tensor::{Dtype, LazyTensor, Overflow, Shape};
