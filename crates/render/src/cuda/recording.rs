//! Records kernel launches as CUDA graphs. A UNet step has about 700 launches; a graph submits them in one call.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result, sys};

use crate::kernels::Recording;

/// A CUDA graph that is ready to launch. The lock admits one thread at a time.
pub(super) struct Graph {
    graph: Mutex<CudaGraph>,
    /// Dropped after the graph.
    _memory: Memory,
}

/// Returns the memory of graphs to the system on drop. Otherwise, the driver would reserve it for other graphs.
struct Memory(Arc<CudaStream>);

impl Drop for Memory {
    fn drop(&mut self) {
        // An error here comes from earlier work; the next driver call returns it again.
        // SAFETY: `self` keeps the stream, its context and its device alive.
        unsafe {
            let _ = result::stream::synchronize(self.0.cu_stream());
            let _ = sys::cuDeviceGraphMemTrim(self.0.context().cu_device()).result();
        }
    }
}

// SAFETY: the driver allows calls on a graph from any thread, but not at the same time. The lock ensures the latter.
unsafe impl Send for Graph {}
// SAFETY: as for `Send`; every call goes through the lock.
unsafe impl Sync for Graph {}

impl Graph {
    /// Allocates the memory of the graph before its first launch.
    fn upload(&self) -> Result<()> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).upload().w()
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).launch().w()
    }
}

/// Records everything that `work` submits to this stream. Memory that `work` allocates and frees then belongs to the
/// graph.
///
/// Returns `None` if the driver cannot record, or `work` fails during the recording. The caller then runs `work`
/// without recording, which returns the error if it persists.
pub(super) fn record(stream: &Arc<CudaStream>, work: &mut dyn FnMut() -> Result<()>) -> Option<Graph> {
    // Thread-local, so that the calls of other threads do not invalidate the recording.
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).ok()?;
    let worked = work();
    // End the capture even after an error. If it was invalidated, freeing tensors failed too. cudarc stores such errors
    // and would fail the next call, so clear them.
    let _ = stream.context().check_err();
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    let graph = graph.ok().flatten()?;
    worked.ok()?;
    let graph = Graph { graph: Mutex::new(graph), _memory: Memory(Arc::clone(stream)) };
    graph.upload().ok()?;
    Some(graph)
}
