//! What the driver's errors mean to whoever started the program.

use crate::error::Error;

/// What is behind an error of the driver or of a library beside it, from how it is displayed.
pub(in crate::render) fn explain(text: &str) -> Error {
    let known = [
        ("CUDA_ERROR_STUB_LIBRARY", "there is no NVIDIA driver on this machine"),
        ("CUDA_ERROR_NO_DEVICE", "there is no NVIDIA card on this machine, or none is visible (CUDA_VISIBLE_DEVICES)"),
        ("CUDA_ERROR_INVALID_DEVICE", "there is no card of this number"),
        (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the NVIDIA driver and its kernel module are of two versions; restart the machine",
        ),
        (
            "CUDA_ERROR_SYSTEM_NOT_READY",
            "the NVIDIA driver is not ready: is its service running, and the card's fabric up?",
        ),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", "the card is older than the kernels, which need compute capability 8.0"),
        (
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "the NVIDIA driver is older than the CUDA that this program was built with",
        ),
        (
            "CUDA_ERROR_OUT_OF_MEMORY",
            "the card has too little memory left for this; close what else uses it, take a smaller --size, or --device cpu",
        ),
        (
            "CUBLAS_STATUS_NOT_INITIALIZED",
            "the library cuBLAS (libcublas.so) is missing or does not fit the driver; it is part of the CUDA toolkit, and of \
             PyTorch's nvidia-cublas package",
        ),
        (
            "CURAND_STATUS_INITIALIZATION_FAILED",
            "the library cuRAND (libcurand.so) is missing or does not fit the driver; it is part of the CUDA toolkit, and of \
             PyTorch's nvidia-curand package",
        ),
    ];
    match known.iter().find(|(name, _)| text.contains(name)) {
        Some((name, meaning)) => Error::unsupported(format!("CUDA: {meaning} ({name})")),
        None => Error::unsupported(format!("CUDA: {}", text.lines().next().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn errors_say_what_to_do() {
        let error = explain("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")\n   0: backtrace");
        assert!(error.to_string().contains("--device cpu"), "{error}");
        assert_eq!(explain("something else\nbelow").to_string(), "CUDA: something else");
    }
}
