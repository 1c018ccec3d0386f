//! The sha256 of a file whose pieces several threads read.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::hexadecimal::hexadecimal;

/// Takes the pieces of a file in any order, and hashes them in theirs. A thread with a piece waits for the threads with the pieces
/// before it, so that no piece is read twice or kept. Each piece must be added, or given up.
#[derive(Debug, Default)]
pub(super) struct FileHash {
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hasher: Sha256,
    /// The number of pieces so far, which is the index of the next.
    next: usize,
    /// Whether a piece could not be read. The others need not wait.
    is_given_up: bool,
}

impl FileHash {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the piece with this index, after those before it.
    pub(super) fn add(&self, index: usize, piece: &[u8]) {
        let is_early = |state: &mut State| state.next < index && !state.is_given_up;
        let mut state = self.turn.wait_while(self.state(), is_early).unwrap_or_else(PoisonError::into_inner);
        if !state.is_given_up {
            state.hasher.update(piece);
            state.next += 1;
            drop(state);
            self.turn.notify_all();
        }
    }

    /// Gives the hash up because a piece could not be read.
    pub(super) fn give_up(&self) {
        self.state().is_given_up = true;
        self.turn.notify_all();
    }

    /// Returns the sha256 of the pieces, lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        hexadecimal(&state.hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn hashes_pieces_in_their_order_whatever_thread_is_first() {
        let hash = FileHash::default();
        thread::scope(|scope| {
            for index in (0..20_u8).rev() {
                let hash = &hash;
                scope.spawn(move || hash.add(usize::from(index), &[index; 1000]));
            }
        });
        let whole: Vec<u8> = (0..20_u8).flat_map(|index| [index; 1000]).collect();
        let expected: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash.finish(), expected);
    }

    #[test]
    fn no_thread_waits_for_a_piece_that_was_given_up() {
        let hash = FileHash::default();
        thread::scope(|scope| {
            (1..4).for_each(|index| {
                drop(scope.spawn({
                    let hash = &hash;
                    move || hash.add(index, b"late")
                }))
            });
            hash.give_up();
        });
    }
}
