//! The buffers and the recording of a UNet step with kernels.

use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::{Kernels, Recording};

/// Tensors with the same address at every step, so that the launches need recording only once.
pub(super) struct Step {
    x: Tensor,
    time_embedding: Tensor,
    out: Tensor,
    recording: State,
}

enum State {
    /// No step has run yet. The first one loads modules, which cannot be recorded.
    First,
    /// A step has run; the next may be recorded.
    Ran,
    Recorded(Box<dyn Recording>),
    /// The device cannot record.
    Refused,
}

impl Step {
    /// Allocates the tensors for latents of the shape of `x`, a time embedding of the shape of `time_embedding` and a
    /// prediction of `channels`.
    pub(super) fn new(kernels: &Kernels, x: &Tensor, time_embedding: &Tensor, channels: usize) -> Result<Self> {
        let empty = |dims: &[usize]| kernels.accelerator().empty(dims, DType::F32);
        let (batch, _, height, width) = x.dims4()?;
        Ok(Step {
            x: empty(x.dims())?,
            time_embedding: empty(time_embedding.dims())?,
            out: empty(&[batch, channels, height, width])?,
            recording: State::First,
        })
    }

    /// Whether the tensors have the shape of the latents `x`.
    pub(super) fn takes(&self, x: &Tensor) -> bool {
        self.x.dims() == x.dims()
    }

    /// Runs `work` on the latents `x` and the time embedding, or replays its recording. `work` writes its result into
    /// its third argument. Returns the result in CPU memory.
    pub(super) fn run(
        &mut self,
        kernels: &Kernels,
        x: &Tensor,
        time_embedding: &Tensor,
        may_record: bool,
        work: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let machine = kernels.accelerator();
        machine.write(&self.x, x)?;
        machine.write(&self.time_embedding, time_embedding)?;
        if may_record && matches!(self.recording, State::Ran) {
            let recording = machine.record(&mut || work(&self.x, &self.time_embedding, &self.out));
            self.recording = recording.map_or(State::Refused, State::Recorded);
        }
        match &self.recording {
            State::Recorded(recording) if may_record => recording.replay()?,
            _ => work(&self.x, &self.time_embedding, &self.out)?,
        }
        if matches!(self.recording, State::First) {
            self.recording = State::Ran;
        }
        self.out.to_device(&Device::Cpu)?.copy()
    }
}
