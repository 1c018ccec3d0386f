//! One step of the network on a machine.

use candle_core::{DType, Device, Result, Tensor};

use crate::render::kernels::{Kernels, Recording};

/// Tensors that stay where they are from step to step, so that what is launched can be recorded once.
pub(super) struct Step {
    x: Tensor,
    time_embedding: Tensor,
    out: Tensor,
    recording: State,
}

enum State {
    /// Nothing has run yet: the first run loads what is loaded once.
    First,
    /// It ran, and may be recorded.
    Ran,
    Recorded(Box<dyn Recording>),
    /// The machine records nothing.
    Refused,
}

impl Step {
    /// For latents like `x`, and what the blocks are time_embedding of a time.
    pub(super) fn new(kernels: &Kernels, x: &Tensor, time_embedding: &Tensor) -> Result<Self> {
        let empty = |like: &Tensor| kernels.machine().empty(like.dims(), DType::F32);
        Ok(Step { x: empty(x)?, time_embedding: empty(time_embedding)?, out: empty(x)?, recording: State::First })
    }

    /// Whether it is one for latents like `x`.
    pub(super) fn takes(&self, x: &Tensor) -> bool {
        self.x.dims() == x.dims()
    }

    /// What `work` makes of a latent, which it writes into its third tensor, in the CPU's memory.
    pub(super) fn run(
        &mut self,
        kernels: &Kernels,
        x: &Tensor,
        time_embedding: &Tensor,
        may_record: bool,
        work: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let machine = kernels.machine();
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
