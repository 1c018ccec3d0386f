use crate::containers::Container;

/// The format of a scanned file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScannedFormat {
    /// A container of checkpoints.
    Container(Container),
    /// A TorchScript program: a zip with pickles and code.
    TorchScript,
    /// A file of torch.package: a zip with pickles and Python modules.
    TorchPackage,
    /// A program of torch.export: a zip with JSON, and native code if it is compiled.
    TorchExport,
    /// A Keras model: a zip with JSON and weights.
    Keras,
    /// Another zip.
    Zip,
    /// A tar.
    Tar,
    /// A NumPy array.
    NumpyArray,
    /// A zip of NumPy arrays.
    NumpyArchive,
    /// A pickle without a container.
    Pickle,
    /// A gzip file.
    Gzip,
    /// A zlib stream, as joblib writes.
    Zlib,
    /// A GGUF file. It holds no pickles.
    Gguf,
    /// An ONNX model. It holds no pickles.
    Onnx,
    /// An HDF5 file, such as Keras weights. It cannot be opened.
    Hdf5,
    /// A TensorFlow SavedModel. It cannot be opened.
    TensorFlow,
    /// An archive or a compressed file that cannot be opened, such as 7z, RAR, bzip2, xz and zstd.
    Archive,
    /// A Git LFS pointer in place of the file.
    LfsPointer,
    /// An image.
    Image,
    /// Audio or video.
    Media,
    /// Text of any kind.
    Text,
    /// An empty file.
    Empty,
    /// A socket, a pipe or a device.
    Special,
    /// None of these.
    Unknown,
}

impl ScannedFormat {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ScannedFormat::Container(container) => container.name(),
            ScannedFormat::TorchScript => "torch-script",
            ScannedFormat::TorchPackage => "torch-package",
            ScannedFormat::TorchExport => "torch-export",
            ScannedFormat::Keras => "keras",
            ScannedFormat::Zip => "zip",
            ScannedFormat::Tar => "tar",
            ScannedFormat::NumpyArray => "numpy-array",
            ScannedFormat::NumpyArchive => "numpy-archive",
            ScannedFormat::Pickle => "pickle",
            ScannedFormat::Gzip => "gzip",
            ScannedFormat::Zlib => "zlib",
            ScannedFormat::Gguf => "gguf",
            ScannedFormat::Onnx => "onnx",
            ScannedFormat::Hdf5 => "hdf5",
            ScannedFormat::TensorFlow => "tensorflow",
            ScannedFormat::Archive => "archive",
            ScannedFormat::LfsPointer => "lfs-pointer",
            ScannedFormat::Image => "image",
            ScannedFormat::Media => "media",
            ScannedFormat::Text => "text",
            ScannedFormat::Empty => "empty",
            ScannedFormat::Special => "special",
            ScannedFormat::Unknown => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            ScannedFormat::Container(container) => container.text(),
            ScannedFormat::TorchScript => "TorchScript",
            ScannedFormat::TorchPackage => "torch.package",
            ScannedFormat::TorchExport => "torch.export",
            ScannedFormat::Keras => "Keras",
            ScannedFormat::NumpyArray => "NumPy array",
            ScannedFormat::NumpyArchive => "NumPy archive",
            ScannedFormat::Gguf => "GGUF",
            ScannedFormat::Onnx => "ONNX",
            ScannedFormat::Hdf5 => "HDF5",
            ScannedFormat::TensorFlow => "TensorFlow",
            ScannedFormat::LfsPointer => "Git LFS pointer",
            ScannedFormat::Empty => "empty file",
            _ => self.name(),
        }
    }

    /// The noun to count files of this format by.
    pub fn noun(self) -> &'static str {
        match self {
            ScannedFormat::LfsPointer => "Git LFS pointer",
            ScannedFormat::Image => "image",
            ScannedFormat::Media => "media file",
            ScannedFormat::Text => "text file",
            ScannedFormat::Empty => "empty file",
            ScannedFormat::Special => "special file",
            _ => "other file",
        }
    }

    /// Whether the file holds nothing that a loader of models would run. In a folder, such files are only counted.
    pub fn is_skipped(self) -> bool {
        matches!(
            self,
            ScannedFormat::LfsPointer
                | ScannedFormat::Image
                | ScannedFormat::Media
                | ScannedFormat::Text
                | ScannedFormat::Empty
                | ScannedFormat::Special
                | ScannedFormat::Unknown
        )
    }

    /// Why the format cannot be scanned. `None` if it can, or if it holds no pickles.
    pub(super) fn obstacle(self) -> Option<&'static str> {
        match self {
            ScannedFormat::Archive => {
                Some("an archive or a compressed file of a kind that cannot be opened; unpack it")
            }
            ScannedFormat::Hdf5 => Some("an HDF5 file, which may hold code of Keras layers, cannot be scanned"),
            ScannedFormat::TensorFlow => Some("a TensorFlow model, which may read and write files, cannot be scanned"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_scripts_have_no_spaces() {
        let container = ScannedFormat::Container(Container::TorchZip);
        assert_eq!((container.name(), container.text()), ("torch-zip", "torch zip"));
        assert_eq!(
            (ScannedFormat::NumpyArray.name(), ScannedFormat::NumpyArray.text()),
            ("numpy-array", "NumPy array")
        );
        assert_eq!((ScannedFormat::Tar.name(), ScannedFormat::Tar.text()), ("tar", "tar"));
    }
}
