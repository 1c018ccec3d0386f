use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts;

/// The signals that end a program by default, except those for its own faults and those that cannot be handled.
const TERMINATING: &[i32] = &[
    consts::SIGINT,
    consts::SIGTERM,
    consts::SIGHUP,
    consts::SIGQUIT,
    consts::SIGXCPU,
    consts::SIGALRM,
    consts::SIGUSR1,
    consts::SIGUSR2,
];

/// Sets the flag at the first signal that would end the program. A second signal ends it. Without handlers, the first
/// signal ends it.
pub(crate) fn catch_interrupts(interrupted: &Arc<AtomicBool>) {
    for &signal in TERMINATING {
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(interrupted));
        let _ = signal_hook::flag::register(signal, Arc::clone(interrupted));
    }
    // With a handler, a write beyond the file size limit (`ulimit -f`) is an error. Without one, it ends the program.
    let _ = signal_hook::flag::register(consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

pub(crate) fn stderr() -> Option<ManuallyDrop<File>> {
    // SAFETY: the descriptor stays open, because the file is never dropped. If it is closed, writes fail.
    Some(ManuallyDrop::new(unsafe { File::from_raw_fd(2) }))
}

pub(crate) fn exit(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

/// Keeps freed memory for the next allocation. A render frees and allocates the activations of each layer: with glibc's
/// defaults, the kernel takes them back and clears them each time.
#[cfg(feature = "render")]
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: changes two numbers of the allocator, under its lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    }
}
