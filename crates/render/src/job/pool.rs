//! The threads of a render.

use rayon::{ThreadPool, ThreadPoolBuilder};

use trinart_ckpt_formats::error::{Error, Result};

/// Starts a pool of `jobs` threads, or of fewer if the system allows no more.
pub(super) fn pool(jobs: usize) -> Result<ThreadPool> {
    let mut threads = jobs;
    loop {
        // The last resort is the current thread, which need not be started.
        let builder = ThreadPoolBuilder::new().num_threads(threads.max(1));
        let builder = if threads == 0 { builder.use_current_thread() } else { builder };
        match builder.build() {
            Ok(pool) => return Ok(pool),
            Err(error) if threads == 0 => {
                return Err(Error::io("cannot start threads", std::io::Error::other(error)));
            }
            Err(_) => threads /= 2,
        }
    }
}

/// Returns whether rayon's global pool could be started. Without it, the first parallel loop would panic.
pub(super) fn has_global_pool() -> bool {
    // An error without a source says that the pool had been started before.
    match ThreadPoolBuilder::new().build_global() {
        Ok(()) => true,
        Err(error) => std::error::Error::source(&error).is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_many_threads_as_asked_for() {
        assert_eq!(pool(2).unwrap().current_num_threads(), 2);
        assert!(has_global_pool() && has_global_pool());
    }
}
