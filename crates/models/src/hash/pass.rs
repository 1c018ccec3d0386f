//! Reads a file once, for several threads.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::{Progress, Source};

/// Bytes of a file that are read at a time, and how many such pieces a thread may lag behind.
pub(super) const PIECE: u64 = 1 << 20;
const LAG: usize = 4;

/// Pieces that are used in turns: those that wait, one that a thread works on, one that it has just left, and one to read.
const PIECES: usize = LAG + 3;

/// A part of the file.
#[derive(Default)]
pub(super) struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

impl Piece {
    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The offset in the file after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// The bytes of a range of the file that are in this piece.
    pub(super) fn within(&self, range: &Range<u64>) -> &[u8] {
        let at = |offset: u64| offset.saturating_sub(self.offset).min(self.bytes.len() as u64) as usize;
        self.bytes.get(at(range.start)..at(range.end)).unwrap_or_default()
    }
}

/// Computes something from all pieces of a file.
pub(super) trait Consumer: Send {
    /// Takes the next piece. Pieces come in their order, without gaps.
    fn add(&mut self, piece: &Piece) -> Result<()>;
}

/// Reads the file, and passes each piece to each consumer: in a thread of its own, or in this one if there is no other.
pub(super) fn pass(
    source: &Source,
    consumers: &[Mutex<impl Consumer>],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    thread::scope(|scope| {
        let (mut senders, mut own): (Vec<SyncSender<Arc<Piece>>>, Vec<_>) = (Vec::new(), Vec::new());
        for consumer in consumers {
            let (sender, receiver) = sync_channel(LAG);
            let failed = &failed;
            // `scope.spawn` would panic at the system's limit of threads.
            let spawned =
                jobs > 1 && thread::Builder::new().spawn_scoped(scope, || work(consumer, receiver, failed)).is_ok();
            if spawned { senders.push(sender) } else { own.push(consumer) }
        }
        let mut pieces: [Arc<Piece>; PIECES] = Default::default();
        let mut offset = 0;
        while offset < source.len() {
            progress.check()?;
            pieces.rotate_left(1);
            let last = pieces.last_mut().or_internal("a pass has no piece")?;
            if Arc::get_mut(last).is_none() {
                *last = Arc::default();
            }
            let piece = Arc::get_mut(last).or_internal("a new piece is in use")?;
            piece.offset = offset;
            piece.bytes.resize(PIECE.min(source.len() - offset) as usize, 0);
            source.read_at(offset, &mut piece.bytes)?;
            for consumer in &own {
                consumer.lock().unwrap_or_else(PoisonError::into_inner).add(last)?;
            }
            if senders.iter().any(|sender| sender.send(Arc::clone(last)).is_err()) {
                break;
            }
            let count = last.bytes.len() as u64;
            offset += count;
            progress.advance(count);
        }
        drop(senders);
        Ok::<(), Error>(())
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.in_file(source.path())),
        None => Ok(()),
    }
}

/// Passes the pieces that arrive to a consumer, and keeps the first error of all.
fn work(consumer: &Mutex<impl Consumer>, pieces: Receiver<Arc<Piece>>, failed: &Mutex<Option<Error>>) {
    let mut consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
    for piece in pieces {
        if let Err(error) = consumer.add(&piece) {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            // Returning drops the receiver, so the next send of the reader fails.
            return;
        }
    }
}
