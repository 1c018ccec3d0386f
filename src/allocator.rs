//! Ends the program with a message if memory runs out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

/// The exit code of a command that could not do its work.
const EXIT: i32 = 2;

/// The system's allocator. An allocation that fails ends the program at once: the standard library would print a backtrace,
/// which allocates, and then abort.
pub(crate) struct Allocator;

// SAFETY: every call is passed on to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`.
        or_exit(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn or_exit(pointer: *mut u8, size: usize) -> *mut u8 {
    if !pointer.is_null() {
        return pointer;
    }
    // Nothing here allocates or takes a lock. Destructors do not run; where the system can, a file that is written has no name
    // yet.
    let mut line = [0; 96];
    let mut rest = line.as_mut_slice();
    // The line is long enough for any number.
    let _ = writeln!(rest, "trinart-ckpt: out of memory: cannot allocate {size} bytes");
    let left = rest.len();
    let (text, _) = line.split_at(line.len() - left);
    trinart_ckpt::cli::end_at_once(text, EXIT)
}
