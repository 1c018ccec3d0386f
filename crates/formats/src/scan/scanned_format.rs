use crate::containers::Container;

/// The format of a scanned file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScannedFormat {
    /// A container of checkpoints.
    Container(Container),
    /// Another zip.
    Zip,
    /// A tar that is not a checkpoint.
    Tar,
    /// A NumPy array of Python objects.
    NumpyArray,
    /// A pickle without a container.
    Pickle,
    /// None of these: the file could not be scanned completely.
    Unknown,
}

impl ScannedFormat {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ScannedFormat::Container(container) => container.name(),
            ScannedFormat::Zip => "zip",
            ScannedFormat::Tar => "tar",
            ScannedFormat::NumpyArray => "numpy-array",
            ScannedFormat::Pickle => "pickle",
            ScannedFormat::Unknown => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            ScannedFormat::Container(container) => container.text(),
            ScannedFormat::NumpyArray => "NumPy array",
            _ => self.name(),
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
