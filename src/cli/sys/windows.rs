use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::windows::io::FromRawHandle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, GetStdHandle, STD_ERROR_HANDLE, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Sets the flag at the first Ctrl-C or Ctrl-Break, or if the console is closed or the user logs off. A second Ctrl-C or
/// Ctrl-Break ends the program.
pub(crate) fn catch_interrupts(interrupted: &Arc<AtomicBool>) {
    let _ = INTERRUPTED.set(Arc::clone(interrupted));
    // SAFETY: the handler is valid as long as the program runs.
    let registered = unsafe { SetConsoleCtrlHandler(Some(handle), 1) };
    // Without a handler, the first event ends the program.
    let _ = registered;
}

/// Returns 1 if the event is handled. The system calls it on a thread of its own.
unsafe extern "system" fn handle(event: u32) -> i32 {
    let Some(interrupted) = INTERRUPTED.get() else { return 0 };
    let is_first = !interrupted.swap(true, Ordering::Relaxed);
    if matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        return i32::from(is_first);
    }
    // The console is closed: the system ends the process when this returns, after 5 seconds at the latest. Until then, the
    // command can stop and remove its temporary files.
    thread::sleep(Duration::from_secs(10));
    0
}

pub(crate) fn stderr() -> Option<ManuallyDrop<File>> {
    // SAFETY: the function has no requirements.
    let handle = unsafe { GetStdHandle(STD_ERROR_HANDLE) };
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return None;
    }
    // SAFETY: the handle is valid and stays open, because the file is never dropped.
    Some(ManuallyDrop::new(unsafe { File::from_raw_handle(handle) }))
}

pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: the handle of the current process is always valid.
    unsafe { TerminateProcess(GetCurrentProcess(), code.cast_unsigned()) };
    // Not reached: a process may always end itself.
    std::process::abort()
}

/// The heap of Windows keeps freed memory as it is.
#[cfg(feature = "render")]
pub(crate) fn keep_freed_memory() {}
