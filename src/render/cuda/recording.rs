//! Launches recorded as a CUDA graph: a step of the UNet has some seven hundred of them, which one call then starts.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result, sys};

use crate::render::kernels::Recording;

/// A graph, which one thread at a time may use.
pub(super) struct Graph {
    graph: Mutex<CudaGraph>,
    /// Behind the graph: it goes last.
    _memory: Memory,
}

/// The memory of graphs. It stays theirs when a graph goes, and tensors cannot have it.
struct Memory(Arc<CudaStream>);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the stream and its device are there as long as this is. An error here is one of what ran before, which
        // the next call says again.
        unsafe {
            let _ = result::stream::synchronize(self.0.cu_stream());
            let _ = sys::cuDeviceGraphMemTrim(self.0.context().cu_device()).result();
        }
    }
}

// SAFETY: the driver asks that calls on a graph are not made at the same time, which the lock sees to; from which thread
// they come does not matter to it.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Gives it its memory.
    fn upload(&self) -> Result<()> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).upload().w()
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).launch().w()
    }
}

/// Records what `work` launches on this stream. Tensors that it makes and drops become memory of the graph. None where
/// the driver records nothing, or `work` fails while it is recorded.
pub(super) fn record(stream: &Arc<CudaStream>, work: &mut dyn FnMut() -> Result<()>) -> Option<Graph> {
    // Other threads' calls are none of this recording's business.
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).ok()?;
    let worked = work();
    // The recording has to end, whatever came of it. Where it broke, tensors could not be freed either, and cudarc keeps
    // such errors for the next call, which is not made then.
    let _ = stream.context().check_err();
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    let graph = graph.ok().flatten()?;
    worked.ok()?;
    let graph = Graph { graph: Mutex::new(graph), _memory: Memory(Arc::clone(stream)) };
    graph.upload().ok()?;
    Some(graph)
}
