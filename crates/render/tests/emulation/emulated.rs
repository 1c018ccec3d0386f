//! An emulated GPU: the source of the kernels, compiled for the CPU by the system's C++ compiler. `emulation.h` describes
//! what it emulates.
//!
//! The unit tests and the integration tests both include this file as a module, and import the crate items that it
//! uses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};
use libloading::Library;

use super::{Accelerator, Error, Launch, LazyTensor, Recording, WeightFlaw, address, address_mut, weights};

/// The mode with the least favorable order: copies to shared memory arrive as late as possible, and the last warp of a
/// block runs first.
pub(crate) const ADVERSE: u32 = 1 | 2;

type Emulate =
    unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, c_uint, c_uint, *const c_void, c_uint) -> c_int;

/// An emulated GPU with tensors in the CPU's memory.
pub(crate) struct Emulated {
    mode: u32,
    multiprocessors: usize,
}

/// The compiled kernels. A library runs one block at a time, so there are two copies for tests that run in parallel.
static LIBRARIES: OnceLock<Option<[Mutex<Library>; 2]>> = OnceLock::new();

impl Emulated {
    /// Returns `None` and prints a message if there is no C++ compiler. Panics instead if `TRINART_PEERS_REQUIRED` is set.
    pub(crate) fn new(mode: u32, multiprocessors: usize) -> Option<Arc<Self>> {
        let load = |path: PathBuf| {
            [0, 1].map(|number| {
                let copy = tempfile::Builder::new().suffix(&format!("-{number}.so")).tempfile().unwrap();
                std::fs::copy(&path, copy.path()).unwrap();
                // SAFETY: the library has no initializers, and `compiled` built it from this repository's source.
                Mutex::new(unsafe { Library::new(copy.path()).unwrap() })
            })
        };
        LIBRARIES.get_or_init(|| compiled().map(load)).as_ref()?;
        Some(Arc::new(Emulated { mode, multiprocessors }))
    }
}

/// Prints the reason why a test does not run on a GPU.
#[cfg(feature = "cuda")]
pub(crate) fn print_gpu_skipped(error: &Error) {
    eprintln!("skipped on a GPU: {error}");
}

/// Compiles the library, unless it exists for the current sources. Returns `None` if there is no compiler.
fn compiled() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (emulation, source) = (root.join("tests/emulation"), root.join("src/kernels/source"));
    let mut sum = crc32fast::Hasher::new();
    for folder in [&emulation, &source] {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().for_each(|file| sum.update(&std::fs::read(file).unwrap()));
    }
    let folder = root.join("../../target/emulation");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join(format!("kernels-{:08x}.so", sum.finalize()));
    if library.exists() {
        return Some(library);
    }
    let scratch = tempfile::Builder::new().suffix(".so").tempfile_in(&folder).unwrap().into_temp_path();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let run = Command::new(&compiler)
        .args(["-std=c++17", "-O3", "-march=native", "-fno-strict-aliasing", "-shared", "-fPIC", "-DTRINART_EMULATION"])
        .args(["-Wno-unknown-pragmas", "-I"])
        .arg(&emulation)
        .arg("-I")
        .arg(&source)
        .arg("-o")
        .arg(&scratch)
        .arg(emulation.join("emulation.cpp"))
        .arg("-ldl")
        .output();
    match run {
        Ok(run) if run.status.success() => {
            scratch.persist(&library).unwrap();
            Some(library)
        }
        Ok(run) => panic!("{compiler}: {}", String::from_utf8_lossy(&run.stderr)),
        Err(error) => {
            assert!(std::env::var_os("TRINART_PEERS_REQUIRED").is_none(), "{compiler}: {error}; install g++");
            eprintln!("skipped: the emulation requires a C++ compiler ({compiler}: {error})");
            None
        }
    }
}

/// Eight bytes, or fewer at the end of a structure, as a word in memory order.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

impl Emulated {
    fn run(&self, kernel: &str, grid: [usize; 3], threads: usize, shared: usize, parameters: &[u8]) -> Result<()> {
        let [first, second] = LIBRARIES.get().unwrap().as_ref().unwrap();
        let library = first.try_lock().unwrap_or_else(|_| second.lock().unwrap_or_else(PoisonError::into_inner));
        let name = CString::new(kernel).unwrap();
        // A copy with the alignment of the kernel's structure.
        let words: Vec<u64> = parameters.chunks(8).map(word).collect();
        let [x, y, z] = grid.map(|side| side as c_uint);
        // SAFETY: `Emulate` is the signature of `emulate`. The caller of `Accelerator::launch` guarantees that `words`
        // is the structure of this kernel with valid addresses, and the library checks the name and the sizes.
        let found = unsafe {
            let emulate = library.get::<Emulate>(b"emulate").unwrap();
            emulate(name.as_ptr(), x, y, z, threads as c_uint, shared as c_uint, words.as_ptr().cast(), self.mode)
        };
        match found {
            0 => Ok(()),
            1 => bail!("there is no kernel {kernel}"),
            _ => bail!("{kernel}: cannot launch blocks of {threads} threads and {shared} bytes in the grid {grid:?}"),
        }
    }
}

impl Accelerator for Emulated {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// All elements are NaN, so that tests detect elements that no kernel writes.
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product();
        match dtype {
            DType::F16 => Tensor::from_vec(vec![f16::NAN; count], shape, &Device::Cpu),
            DType::BF16 => Tensor::from_vec(vec![bf16::NAN; count], shape, &Device::Cpu),
            DType::F32 => Tensor::from_vec(vec![f32::NAN; count], shape, &Device::Cpu),
            _ => bail!("cannot allocate tensors of {dtype:?}"),
        }
    }

    unsafe fn launch(&self, launch: &Launch<'_>, parameters: &[u8]) -> Result<()> {
        self.run(launch.kernel, launch.grid, launch.threads, launch.shared, parameters)
    }

    fn upload(&self, lazy: &LazyTensor) -> std::result::Result<(Tensor, Option<WeightFlaw>), Error> {
        weights::stored(lazy, &Device::Cpu)
    }

    fn write(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        assert_eq!((to.dims(), to.dtype()), (from.dims(), from.dtype()));
        assert!(to.device().is_cpu());
        let (from_at, to_at) = (address(from)?, address_mut(to)?);
        // SAFETY: both tensors are contiguous and have this many bytes, and no other thread uses them.
        unsafe {
            std::ptr::copy(from_at as *const u8, to_at as *mut u8, to.elem_count() * to.dtype().size_in_bytes());
        }
        Ok(())
    }

    /// Does not record, because a replay would use intermediate tensors that have been freed.
    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>> {
        None
    }
}
