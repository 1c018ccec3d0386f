//! What differs between operating systems in a program: interrupts, memory, and the end without any cleanup.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use system::catch_interrupts;
#[cfg(feature = "render")]
pub(super) use system::keep_freed_memory;

use std::io::Write;

/// Writes a line to stderr and ends the program at once. Allocates nothing, takes no lock and runs no destructor.
pub fn end_at_once(line: &[u8], code: i32) -> ! {
    if let Some(mut stderr) = system::stderr() {
        // Without a working stderr, the exit code is all that is left.
        let _ = stderr.write_all(line);
    }
    system::exit(code)
}
