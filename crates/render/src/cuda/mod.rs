//! NVIDIA GPUs, as accelerators that run the kernels. Requires the feature `cuda`.
//!
//! GPU support is experimental: it has been tested only in emulation, never on a GPU.
//!
//! candle opens the GPU and owns its memory. Kernel launches, uploads and recordings go directly to the driver, on
//! candle's stream. The program contains `kernels.cu` as machine code for the architectures that `build.rs` lists and as
//! PTX for later ones, so it compiles nothing at run time.

mod recording;
mod upload;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor, bail};

use crate::errors::explain;
use crate::kernels::{Accelerator, Launch, Recording, address, address_mut};
use crate::weight_flaws::WeightFlaw;
use trinart_ckpt_formats::error;
use trinart_ckpt_formats::tensor::LazyTensor;
use upload::Uploader;

/// The kernels, as compiled by `build.rs`.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Maximum dynamic shared memory of a block in bytes. All GPUs since compute capability 8.0 support it.
const MOST_SHARED: i32 = 99 << 10;

/// An NVIDIA GPU.
pub struct Card {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    uploader: Mutex<Uploader>,
    multiprocessors: usize,
    name: String,
}

impl Card {
    /// Opens the GPU with this index in the driver's order.
    ///
    /// Fails if there is no driver, no such GPU, or no cuBLAS or cuRAND, or if the GPU is older than compute capability
    /// 8.0.
    pub fn open(number: usize) -> error::Result<Self> {
        Self::opened(number).map_err(|error| explain(&error.to_string()))
    }

    fn opened(number: usize) -> Result<Self> {
        // The default stream cannot be recorded.
        let device = CudaDevice::new_with_stream(number)?;
        // SAFETY: candle's events only order work on several streams, and this program uses a single stream.
        unsafe { device.disable_event_tracking() };
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let (major, minor) = context.compute_capability().w()?;
        let name = context.name().w()?;
        if major < 8 {
            bail!("{name} has compute capability {major}.{minor}; the kernels require 8.0 or newer")
        }
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).w()?;
        let Ok(multiprocessors) = usize::try_from(multiprocessors) else {
            bail!("the driver reports {multiprocessors} multiprocessors")
        };
        let module = context.load_module(Ptx::from_binary(KERNELS.to_vec())).w()?;
        let uploader = Mutex::new(Uploader::new(&context).w()?);
        let card = Card {
            device: Device::Cuda(device),
            context,
            stream,
            module,
            functions: Mutex::default(),
            uploader,
            multiprocessors,
            name: format!("{name}, compute capability {major}.{minor}"),
        };
        // Some virtual GPUs have no memory pools. candle then allocates without them.
        if card.context.has_async_alloc() {
            card.keep_freed_memory().w()?;
        }
        Ok(card)
    }

    /// Returns the driver's name of the GPU, with its compute capability.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Returns the peak GPU memory that this program reserved, in bytes. Excludes memory that the driver uses.
    ///
    /// Returns `None` if the driver does not report it, for example on GPUs without memory pools.
    pub fn peak_memory(&self) -> Option<u64> {
        let mut of_pool = 0u64;
        let mut of_graphs = 0u64;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
        let of_graph = sys::CUgraphMem_attribute_enum::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
        // SAFETY: both attributes are 64-bit integers, the pointers refer to 64-bit integers that outlive the calls,
        // and the pool belongs to this device.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device()).ok()?;
            let place = std::ptr::from_mut(&mut of_pool).cast::<c_void>();
            sys::cuMemPoolGetAttribute(pool, attribute, place).result().ok()?;
            let place = std::ptr::from_mut(&mut of_graphs).cast::<c_void>();
            sys::cuDeviceGetGraphMemAttribute(self.context.cu_device(), of_graph, place).result().ok()?;
        }
        Some(of_pool + of_graphs)
    }

    /// Keeps freed memory in the pool. By default the driver returns it to the system at each synchronization, and the next
    /// step has to allocate it again.
    fn keep_freed_memory(&self) -> std::result::Result<(), DriverError> {
        let mut threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a 64-bit integer, the pointer refers to a 64-bit integer that outlives the call, and
        // the pool belongs to this device.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device())?;
            sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast::<c_void>()).result()
        }
    }

    /// Returns the unused memory of the pool to the system.
    fn trim(&self) -> std::result::Result<(), DriverError> {
        self.stream.synchronize()?;
        // SAFETY: the pool belongs to this device.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device())?;
            sys::cuMemPoolTrimTo(pool, 0).result()
        }
    }

    /// Returns the kernel with this name. Loads it on the first call.
    fn function(&self, name: &str) -> std::result::Result<CudaFunction, DriverError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name)?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, MOST_SHARED)?;
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}

impl Accelerator for Card {
    fn device(&self) -> &Device {
        &self.device
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        // SAFETY: by the contract of `Accelerator::empty`, the caller writes all elements before it reads any.
        unsafe { Tensor::empty(shape, dtype, &self.device) }
    }

    unsafe fn launch(&self, launch: &Launch<'_>, parameters: &[u8]) -> Result<()> {
        let function = self.function(launch.kernel).w()?;
        let side = |side: usize| u32::try_from(side).map_err(|_| too_large(launch));
        let [x, y, z] = launch.grid;
        let grid = (side(x)?, side(y)?, side(z)?);
        let (threads, shared) = (side(launch.threads)?, side(launch.shared)?);
        // The driver copies the structure before the call returns, and does not require an alignment.
        let mut parameters = parameters.to_vec();
        let mut arguments = [parameters.as_mut_ptr().cast::<c_void>()];
        self.context.bind_to_thread().w()?;
        // SAFETY: the kernel has one parameter, and the caller guarantees that `parameters` is its structure with valid
        // addresses. Every tensor is allocated and freed on this stream.
        unsafe {
            let stream = self.stream.cu_stream();
            result::launch_kernel(function.cu_function(), grid, (threads, 1, 1), shared, stream, &mut arguments).w()
        }
    }

    fn upload(&self, lazy: &LazyTensor) -> error::Result<(Tensor, Option<WeightFlaw>)> {
        let mut uploader = self.uploader.lock().unwrap_or_else(PoisonError::into_inner);
        uploader.upload(lazy, &self.device, &self.stream)
    }

    fn write(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        if to.dims() != from.dims() || to.dtype() != from.dtype() {
            bail!("cannot copy {from:?} to {to:?}")
        }
        let bytes = to.elem_count() * to.dtype().size_in_bytes();
        let to = address_mut(to)?;
        self.context.bind_to_thread().w()?;
        let stream = self.stream.cu_stream();
        let is_on_cpu = from.device().is_cpu();
        let from = address(from)?;
        // SAFETY: both tensors have `bytes` bytes and outlive this call. The driver copies from CPU memory before the
        // call returns, because this memory is not pinned. Copies on the GPU run in stream order.
        unsafe {
            if is_on_cpu {
                let from = std::slice::from_raw_parts(from as *const u8, bytes);
                result::memcpy_htod_async(to, from, stream).w()
            } else {
                result::memcpy_dtod_async(to, from, bytes, stream).w()
            }
        }
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>> {
        // The recording allocates separate memory, so the pool no longer needs the memory of the first run.
        self.trim().ok()?;
        recording::record(&self.stream, work).map(|graph| Box::new(graph) as Box<dyn Recording>)
    }
}

fn too_large(launch: &Launch<'_>) -> candle_core::Error {
    candle_core::Error::Msg(format!("{}: the grid {:?} is too large", launch.kernel, launch.grid))
}
