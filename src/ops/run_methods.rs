//! The methods that operations which read files have in common.

/// Adds to an operation the methods that set its number of threads and its progress, which are in these fields.
macro_rules! run_methods {
    ($operation:ident, $($jobs:ident).+, $($progress:ident).+) => {
        impl<'a> $operation<'a> {
            /// Sets the number of threads, at least 1. By default two per CPU, at most eight.
            #[must_use]
            pub fn jobs(mut self, jobs: usize) -> Self {
                self.$($jobs).+ = jobs;
                self
            }

            /// Reports progress to `progress`, which may also interrupt the work.
            #[must_use]
            pub fn progress(mut self, progress: &'a dyn trinart_ckpt_formats::io::Progress) -> Self {
                self.$($progress).+ = progress;
                self
            }
        }
    };
}
pub(super) use run_methods;
