//! Bytes that take work to produce, kept while they are needed: inflated storages, and tensors in row-major order.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{OrInternal, Result};
use crate::io::Spill;
use crate::limits;

/// Bytes in memory, or in a temporary file if there are more than [`limits::HELD_BYTES`].
#[derive(Debug)]
pub(super) enum Held {
    Memory(Vec<u8>),
    Spilled(Spill),
}

impl Held {
    fn new(len: u64, pinned: bool) -> Result<Self> {
        // Pinned bytes stay, so that the memory they take together would have no bound.
        Ok(if len > limits::HELD_BYTES || pinned {
            Held::Spilled(Spill::new(len)?)
        } else {
            Held::Memory(vec![0; len as usize])
        })
    }

    /// Writes `bytes` at `offset`. A range past the end is an internal error.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Held::Spilled(spill) => spill.write_at(offset, bytes),
            Held::Memory(held) => {
                let start = usize::try_from(offset).ok();
                let place = start.and_then(|start| held.get_mut(start..start.checked_add(bytes.len())?));
                place.or_internal("a range lies outside the held bytes")?.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Fills `out` with the bytes at `offset`. A range past the end is an internal error.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Held::Spilled(spill) => spill.read_at(offset, out),
            Held::Memory(held) => {
                let start = usize::try_from(offset).ok();
                let found = start.and_then(|start| held.get(start..start.checked_add(out.len())?));
                out.copy_from_slice(found.or_internal("a range lies outside the held bytes")?);
                Ok(())
            }
        }
    }
}

/// Produces bytes at most twice: the first time they are kept as long as they are in use, the second time for good. Without
/// that, tensors that alternate between two storages would produce each storage again and again.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: Weak<Held>,
    pinned: Option<Arc<Held>>,
    was_built: bool,
}

impl Slot {
    /// Returns the bytes if someone holds them.
    pub(super) fn get(&self) -> Option<Arc<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.upgrade()
    }

    /// Returns the bytes. `build` produces them if they are not in use elsewhere; other threads wait for it.
    pub(super) fn get_or_build(
        &self,
        len: u64,
        build: impl FnOnce(&mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<Arc<Held>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = state.held.upgrade() {
            return Ok(held);
        }
        let mut held = Held::new(len, state.was_built)?;
        build(&mut |offset, bytes| held.write_at(offset, bytes))?;
        let held = Arc::new(held);
        state.held = Arc::downgrade(&held);
        state.pinned = state.was_built.then(|| Arc::clone(&held));
        state.was_built = true;
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_at_most_twice() {
        for len in [4, limits::HELD_BYTES + 1] {
            let slot = Slot::default();
            let mut builds = 0;
            for _ in 0..5 {
                let held = slot.get_or_build(len, |write| {
                    builds += 1;
                    write(len - 3, b"abc")
                });
                let mut out = [0; 2];
                held.unwrap().read_at(len - 2, &mut out).unwrap();
                assert_eq!(&out, b"bc");
            }
            assert_eq!(builds, 2, "{len}");
        }
    }

    #[test]
    fn builds_once_while_held() {
        let slot = Slot::default();
        assert!(slot.get().is_none());
        let _held = slot.get_or_build(1, |write| write(0, b"a")).unwrap();
        assert!(slot.get().is_some());
        slot.get_or_build(1, |_| panic!("built again")).unwrap();
    }
}
