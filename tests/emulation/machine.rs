//! A machine that plays a graphics card on the CPU: the kernels' own source, compiled for it by the system's C++
//! compiler. `emulation.h` says how faithful it is. Tests within the crate and beside it have this file as a module; what
//! it takes of the crate, they import.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
// What is unsafe here is safe as far as the kernels are, which is what it tests.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use libloading::Library;

use super::{Error, Launch, LazyTensor, Machine, Recording, WeightFlaw, address, weights};

/// Copies to shared memory arrive when they are waited for, not before; the last warp of a block comes first.
pub(crate) const CONTRARY: u32 = 1 | 2;

type Emulate =
    unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, c_uint, c_uint, *const c_void, c_uint) -> c_int;

pub(crate) struct Emulated {
    mode: u32,
    multiprocessors: usize,
}

/// A library plays one block at a time; copies of it are libraries of their own, for tests that run beside each other.
static LIBRARIES: OnceLock<Option<[Mutex<Library>; 2]>> = OnceLock::new();

impl Emulated {
    /// None, with a message, where there is no compiler; where peers are required, that fails.
    pub(crate) fn new(mode: u32, multiprocessors: usize) -> Option<Arc<Self>> {
        let load = |path: PathBuf| {
            [0, 1].map(|number| {
                let copy = tempfile::Builder::new().suffix(&format!("-{number}.so")).tempfile().unwrap();
                std::fs::copy(&path, copy.path()).unwrap();
                Mutex::new(unsafe { Library::new(copy.path()).unwrap() })
            })
        };
        LIBRARIES.get_or_init(|| compiled().map(load)).as_ref()?;
        Some(Arc::new(Emulated { mode, multiprocessors }))
    }
}

/// Says that a test is for cards too, and why it is not tried on one.
#[cfg(feature = "cuda")]
pub(crate) fn skipped_on_a_card(error: &Error) {
    eprintln!("skipped on a card: {error}");
}

/// The library made of the sources as they are.
fn compiled() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (emulation, source) = (root.join("tests/emulation"), root.join("src/render/kernels/source"));
    let mut sum = crc32fast::Hasher::new();
    for folder in [&emulation, &source] {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().for_each(|file| sum.update(&std::fs::read(file).unwrap()));
    }
    let folder = root.join("target/emulation");
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
            eprintln!("skipped: the kernels need a C++ compiler to be tried ({compiler}: {error})");
            None
        }
    }
}

impl Emulated {
    fn run(&self, kernel: &str, grid: [usize; 3], threads: usize, shared: usize, parameters: &[u8]) -> Result<()> {
        let [first, second] = LIBRARIES.get().unwrap().as_ref().unwrap();
        let library = first.try_lock().unwrap_or_else(|_| second.lock().unwrap_or_else(PoisonError::into_inner));
        let name = CString::new(kernel).unwrap();
        // Structures begin at addresses that fit them.
        let mut words = vec![0u64; parameters.len().div_ceil(8)];
        unsafe {
            std::ptr::copy_nonoverlapping(parameters.as_ptr(), words.as_mut_ptr().cast(), parameters.len());
        }
        let [x, y, z] = grid.map(|side| side as c_uint);
        let found = unsafe {
            let emulate = library.get::<Emulate>(b"emulate").unwrap();
            emulate(name.as_ptr(), x, y, z, threads as c_uint, shared as c_uint, words.as_ptr().cast(), self.mode)
        };
        match found {
            0 => Ok(()),
            1 => bail!("no kernel {kernel}"),
            _ => bail!("{kernel}: blocks of {threads} threads and {shared} bytes in a grid of {grid:?}"),
        }
    }
}

impl Machine for Emulated {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// What is never written is no number.
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product();
        match dtype {
            DType::F16 => Tensor::from_vec(vec![f16::NAN; count], shape, &Device::Cpu),
            DType::BF16 => Tensor::from_vec(vec![bf16::NAN; count], shape, &Device::Cpu),
            DType::F32 => Tensor::from_vec(vec![f32::NAN; count], shape, &Device::Cpu),
            _ => bail!("no tensors of {dtype:?}"),
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
        let (from_at, to_at) = (address(from)?, address(to)?);
        let (storage, _) = to.storage_and_layout();
        assert!(matches!(&*storage, Storage::Cpu(_)));
        unsafe {
            std::ptr::copy(from_at as *const u8, to_at as *mut u8, to.elem_count() * to.dtype().size_in_bytes());
        }
        Ok(())
    }

    /// A card keeps what it records alive; here tensors between the layers would be freed, so nothing is recorded.
    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>> {
        None
    }
}
