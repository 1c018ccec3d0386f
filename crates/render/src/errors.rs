//! Converts errors from candle and the CUDA driver.

use trinart_ckpt_formats::error::Error;
#[cfg(feature = "cuda")]
use trinart_ckpt_formats::error::Hint;

/// Converts a candle error to an error of kind [`Kind::Unsupported`](trinart_ckpt_formats::error::Kind::Unsupported).
/// Keeps only the first line of candle's text, because the following lines are a backtrace. An error of the CUDA driver
/// gets an explanation instead.
pub(crate) fn from_candle(error: candle_core::Error) -> Error {
    let text = error.to_string();
    #[cfg(feature = "cuda")]
    if text.contains("DriverError(") {
        return explain(&text);
    }
    Error::unsupported(first_line(&text))
}

fn first_line(text: &str) -> &str {
    text.split_once('\n').map_or(text, |(first, _)| first)
}

/// Explains an error of the CUDA driver, cuBLAS or cuRAND, given its displayed text. Keeps the first line of the text
/// if the error is unknown.
#[cfg(feature = "cuda")]
pub(crate) fn explain(text: &str) -> Error {
    let known = [
        ("CUDA_ERROR_STUB_LIBRARY", "there is no NVIDIA driver on this machine"),
        ("CUDA_ERROR_NO_DEVICE", "there is no NVIDIA GPU on this machine, or CUDA_VISIBLE_DEVICES hides it"),
        ("CUDA_ERROR_INVALID_DEVICE", "there is no GPU with this index"),
        (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the versions of the NVIDIA driver and its kernel module differ; restart the machine",
        ),
        (
            "CUDA_ERROR_SYSTEM_NOT_READY",
            "the NVIDIA driver is not ready; check that its services (such as the fabric manager) are running",
        ),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", "the GPU is too old; the kernels require compute capability 8.0"),
        (
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "the NVIDIA driver is older than the CUDA version of this program; update the driver",
        ),
        ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU does not have enough free memory; close other programs that use it"),
        (
            "CUBLAS_STATUS_NOT_INITIALIZED",
            "the library cuBLAS (libcublas.so) is missing or does not match the driver; install the CUDA toolkit or the \
             Python package nvidia-cublas",
        ),
        (
            "CURAND_STATUS_INITIALIZATION_FAILED",
            "the library cuRAND (libcurand.so) is missing or does not match the driver; install the CUDA toolkit or the \
             Python package nvidia-curand",
        ),
    ];
    let hint = if text.contains("CUDA_ERROR_OUT_OF_MEMORY") { Hint::SmallerOrCpu } else { Hint::Cpu };
    let message = match known.iter().find(|(name, _)| text.contains(name)) {
        Some((name, meaning)) => format!("CUDA: {meaning} ({name})"),
        None => format!("CUDA: {}", first_line(text)),
    };
    Error::unsupported(message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use trinart_ckpt_formats::error::Kind;

    use super::*;

    #[test]
    fn keeps_the_text_of_an_error_of_candle() {
        let error = from_candle(candle_core::Error::Msg("out of memory".into()));
        assert_eq!((error.to_string().as_str(), error.kind()), ("out of memory", Kind::Unsupported));
    }

    #[test]
    fn drops_the_backtrace_of_an_error_of_candle() {
        let error = candle_core::Error::Msg("invalid index\n   0: candle_core::error::Error::bt".into());
        assert_eq!(from_candle(error).to_string(), "invalid index");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn explains_a_lack_of_memory() {
        let error = explain("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")\n   0: backtrace");
        assert!(error.to_string().ends_with("(CUDA_ERROR_OUT_OF_MEMORY)"), "{error}");
        assert_eq!(error.hint(), Some(Hint::SmallerOrCpu));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn keeps_the_first_line_of_an_unknown_error() {
        assert_eq!(explain("something else\nbelow").to_string(), "CUDA: something else");
    }
}
