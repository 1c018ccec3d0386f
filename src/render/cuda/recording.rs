//! Launches recorded as a CUDA graph: a step of the UNet has some seven hundred of them, which one call then starts.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};

use crate::render::kernels::Recording;

/// A graph, which one thread at a time may use.
pub(super) struct Graph(Mutex<CudaGraph>);

// SAFETY: the driver asks that calls on a graph are not made at the same time, which the lock sees to; from which thread
// they come does not matter to it.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).launch().w()
    }
}

/// Records what `work` launches on this stream. Tensors that it makes and drops become memory of the graph. None where
/// the driver records nothing, or `work` fails while it is recorded.
pub(super) fn record(stream: &Arc<CudaStream>, work: &mut dyn FnMut() -> Result<()>) -> Option<Graph> {
    // Other threads' calls are none of this recording's business.
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).ok()?;
    let worked = work();
    // The recording has to end, whatever came of it.
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    let graph = graph.ok().flatten()?;
    worked.ok()?;
    graph.upload().ok()?;
    Some(Graph(Mutex::new(graph)))
}
