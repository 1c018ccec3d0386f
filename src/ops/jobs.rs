use trinart_ckpt_formats::{Error, Result};

/// Fails if a number of threads is 0.
pub(super) fn check_jobs(jobs: usize) -> Result<()> {
    if jobs == 0 { Err(Error::usage("the number of threads must be at least 1")) } else { Ok(()) }
}
