//! Compiles the CUDA kernels for the feature `cuda`. See `cuda/README.md` for the requirements.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The compute capabilities to compile machine code for: Ampere, Ada and Hopper. Newer GPUs use the PTX of the last one.
const CAPABILITIES: [&str; 4] = ["80", "86", "89", "90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let source = Path::new("src/kernels/source");
    println!("cargo::rerun-if-changed={}", source.display());
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let Some(out) = std::env::var_os("OUT_DIR") else {
        println!("cargo::error=cargo did not set OUT_DIR");
        return;
    };
    let out = PathBuf::from(out).join("kernels.fatbin");
    let mut command = Command::new(nvcc());
    command.args(["-std=c++17", "-O3", "-fatbin", "-Xfatbin", "-compress-all", "--threads", "0"]);
    for capability in CAPABILITIES {
        command.arg("-gencode").arg(format!("arch=compute_{capability},code=sm_{capability}"));
    }
    let [.., newest] = CAPABILITIES;
    command.arg("-gencode").arg(format!("arch=compute_{newest},code=compute_{newest}"));
    command.arg("-o").arg(&out).arg(source.join("kernels.cu"));
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error=nvcc failed to compile the kernels ({status}): {command:?}"),
        Err(error) => {
            println!("cargo::error=the feature `cuda` requires nvcc, see cuda/README.md: {error}: {command:?}")
        }
    }
}

/// The compiler: `NVCC`, else `bin/nvcc` in `CUDA_HOME` or `CUDA_PATH`, else `nvcc` on the path.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let mut candidates = homes.map(|home| PathBuf::from(home).join("bin/nvcc"));
    candidates.find(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}
