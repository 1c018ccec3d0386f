//! Recorded kernel launches, as CUDA graphs. One call then submits a step of the UNet, which has about 700 launches.

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

/// Returns the memory of graphs to the system when it is dropped. The driver otherwise reserves it for other graphs.
struct Memory(Arc<CudaStream>);

impl Drop for Memory {
    fn drop(&mut self) {
        // An error here is one of earlier work, which the next call to the driver returns again.
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

/// Records what `work` submits to this stream. Memory that `work` allocates and frees becomes memory of the graph.
///
/// Returns `None` if the driver cannot record, or `work` fails while it is recorded. The caller then runs `work` without
/// recording, which returns the error if it persists.
pub(super) fn record(stream: &Arc<CudaStream>, work: &mut dyn FnMut() -> Result<()>) -> Option<Graph> {
    // Thread-local, so that the calls of other threads do not invalidate the recording.
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).ok()?;
    let worked = work();
    // The capture has to end in any case. If it was invalidated, freeing tensors failed as well; cudarc keeps such errors
    // and would refuse the next call, so this clears them.
    let _ = stream.context().check_err();
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    let graph = graph.ok().flatten()?;
    worked.ok()?;
    let graph = Graph { graph: Mutex::new(graph), _memory: Memory(Arc::clone(stream)) };
    graph.upload().ok()?;
    Some(graph)
}
