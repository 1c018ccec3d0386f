//! NVIDIA cards, as machines that run the kernels. With the feature `cuda`.
//!
//! candle opens the card and owns its memory; kernels, uploads and recordings go to the driver directly, on candle's
//! stream. `kernels.cu` is part of the program as machine code for the architectures that `build.rs` names, and as PTX
//! for those that come after them, so that nothing is compiled at the start.

mod explain;
mod recording;
mod upload;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle_core::{CudaStorage, DType, Device, Result, Tensor, bail};

use crate::error;
use crate::render::kernels::{Launch, Machine, Recording, address as address_of};
use crate::render::weight_flaws::WeightFlaw;
use crate::tensor::LazyTensor;
pub(super) use explain::explain;
use upload::Uploader;

/// The kernels, compiled by `build.rs`.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The most shared memory that a block takes of any kernel: what every card since compute capability 8.0 has.
const MOST_SHARED: i32 = 99 << 10;

/// A card.
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
    /// The card of this number, as the driver counts them.
    ///
    /// An error says what is missing: a driver, a card, a library, or a card that is new enough.
    pub fn open(number: usize) -> error::Result<Self> {
        Self::opened(number).map_err(|error| explain(&error.to_string()))
    }

    fn opened(number: usize) -> Result<Self> {
        // A stream of its own: the default one cannot be recorded.
        let device = CudaDevice::new_with_stream(number)?;
        // SAFETY: all work of this program on the card is on this one stream, in order.
        unsafe { device.disable_event_tracking() };
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let (major, minor) = context.compute_capability().w()?;
        let name = context.name().w()?;
        if major < 8 {
            bail!("{name} has compute capability {major}.{minor}; the kernels need 8.0 or newer")
        }
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = usize::try_from(context.attribute(attribute).w()?).unwrap_or(1);
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
        // Some virtual cards have no pools; candle takes its memory elsewhere then.
        if card.context.has_async_alloc() {
            card.keep_freed_memory().w()?;
        }
        Ok(card)
    }

    /// As the driver calls it, with its compute capability.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// The most memory that this program held on the card at a time, but for the driver's own.
    pub fn peak_memory(&self) -> Option<u64> {
        let mut of_pool = 0u64;
        let mut of_graphs = 0u64;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
        let of_graph = sys::CUgraphMem_attribute_enum::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
        // SAFETY: both attributes are numbers of 64 bits, and the pool is this device's.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device()).ok()?;
            let place = std::ptr::from_mut(&mut of_pool).cast::<c_void>();
            sys::cuMemPoolGetAttribute(pool, attribute, place).result().ok()?;
            let place = std::ptr::from_mut(&mut of_graphs).cast::<c_void>();
            sys::cuDeviceGetGraphMemAttribute(self.context.cu_device(), of_graph, place).result().ok()?;
        }
        Some(of_pool + of_graphs)
    }

    /// By default memory that was freed goes back to the system whenever the program waits for the card, and has to be
    /// asked for again at every step.
    fn keep_freed_memory(&self) -> std::result::Result<(), DriverError> {
        let mut threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a number of 64 bits, and the pool is this device's.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device())?;
            sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast::<c_void>()).result()
        }
    }

    /// What is kept and not in use goes back to the system.
    fn trim(&self) -> std::result::Result<(), DriverError> {
        self.stream.synchronize()?;
        // SAFETY: the pool is this device's.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device())?;
            sys::cuMemPoolTrimTo(pool, 0).result()
        }
    }

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

impl Machine for Card {
    fn device(&self) -> &Device {
        &self.device
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        // SAFETY: whoever asks for it writes all of it before anything is read.
        unsafe { Tensor::empty(shape, dtype, &self.device) }
    }

    unsafe fn launch(&self, launch: &Launch<'_>, parameters: &[u8]) -> Result<()> {
        let function = self.function(launch.kernel).w()?;
        let side = |side: usize| u32::try_from(side).map_err(|_| too_large(launch));
        let [x, y, z] = launch.grid;
        let grid = (side(x)?, side(y)?, side(z)?);
        let (threads, shared) = (side(launch.threads)?, side(launch.shared)?);
        // The driver copies the structure before the call returns; it may begin anywhere.
        let mut parameters = parameters.to_vec();
        let mut arguments = [parameters.as_mut_ptr().cast::<c_void>()];
        self.context.bind_to_thread().w()?;
        // SAFETY: the kernel takes one structure, which is this one, of tensors on this stream: the caller's promise.
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
            bail!("{from:?} does not fit into {to:?}")
        }
        let bytes = to.elem_count() * to.dtype().size_in_bytes();
        let to = address_of(to)?;
        self.context.bind_to_thread().w()?;
        let stream = self.stream.cu_stream();
        let is_here = from.device().is_cpu();
        let from = address_of(from)?;
        // SAFETY: both have as many bytes; memory of the CPU that is not pinned is copied before the call returns.
        unsafe {
            if is_here {
                let from = std::slice::from_raw_parts(from as *const u8, bytes);
                result::memcpy_htod_async(to, from, stream).w()
            } else {
                result::memcpy_dtod_async(to, from, bytes, stream).w()
            }
        }
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>> {
        // What the first run used and the recording will not: it has memory of its own.
        self.trim().ok()?;
        recording::record(&self.stream, work).map(|graph| Box::new(graph) as Box<dyn Recording>)
    }
}

fn too_large(launch: &Launch<'_>) -> candle_core::Error {
    candle_core::Error::Msg(format!("{}: a grid of {:?} is too large", launch.kernel, launch.grid))
}

/// Where a tensor's storage begins on its card.
pub(super) fn address(storage: &CudaStorage) -> Result<u64> {
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;
    let stream = storage.device.cuda_stream();
    // Nobody waits for anything here: all of it is on one stream.
    Ok(match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        _ => bail!("kernels take no tensors of this type"),
    })
}
