//! Memory for transposed tensors, which all threads share.

use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::limits;

/// Bytes of all reservations of the process.
static RESERVED: AtomicU64 = AtomicU64::new(0);

/// A part of [`limits::GATHERED_BYTES`], until it is dropped.
#[derive(Debug)]
pub(super) struct Reservation(u64);

impl Reservation {
    /// Reserves memory. `None` if too little is left.
    pub(super) fn new(bytes: u64) -> Option<Self> {
        let more = |reserved: u64| reserved.checked_add(bytes).filter(|&sum| sum <= limits::GATHERED_BYTES);
        RESERVED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Reservation(bytes))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Reserved memory that starts as zeros.
#[derive(Debug)]
pub(super) struct Pages {
    map: MmapMut,
    _memory: Reservation,
}

impl Pages {
    /// Returns `len` zeros. `None` if too little of the shared memory is left, or if the system has none.
    pub(super) fn new(len: u64) -> Option<Self> {
        let memory = Reservation::new(len)?;
        let map = MmapMut::map_anon(usize::try_from(len).ok()?).ok()?;
        // Large pages take a tenth of the time to allocate, and distant elements need fewer entries of the TLB. Only advice.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Pages { map, _memory: memory })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}
