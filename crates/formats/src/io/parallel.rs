//! A parallel map over a slice, with results in order.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::Result;

/// The default number of threads: two per CPU, because one of the two usually waits for the disk; at most eight, because
/// beyond that the disk is the limit.
pub fn default_jobs() -> usize {
    thread::available_parallelism().map_or(2, |count| (2 * count.get()).min(8))
}

thread_local! {
    /// The number of threads of the map that this thread works for.
    static JOBS: Cell<usize> = const { Cell::new(1) };
}

/// The number of threads that the caller may use while the other threads of its map wait for it. 1 outside of a map.
pub(crate) fn current_jobs() -> usize {
    JOBS.get()
}

/// Applies `work` to each item on up to `jobs` threads, and returns the results in the order of the items. 0 means one
/// thread.
///
/// Uses fewer threads if the system cannot start more.
/// Threads take items in order, so files are read and written nearly sequentially. `init` makes the state that a thread
/// keeps between items (its buffers). After an error no thread starts another item. Fails with the error of the earliest
/// item that failed.
pub fn map<T, S, R>(
    jobs: usize,
    items: &[T],
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<R> + Sync,
) -> Result<Vec<R>>
where
    T: Sync,
    R: Send,
{
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let jobs = jobs.clamp(1, items.len().max(1));
    let worker = || {
        let outer = JOBS.replace(jobs);
        let mut state = init();
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = work(&mut state, item);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.push((index, result));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).extend(results);
        JOBS.set(outer);
    };
    thread::scope(|scope| {
        // The calling thread is one of them.
        for _ in 1..jobs {
            // `scope.spawn` would panic at the system's limit of threads.
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn returns_results_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..1000).collect();
        let squares = map(4, &items, || (), |(), item| Ok(item * item)).unwrap();
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
    }

    #[test]
    fn runs_with_no_threads_and_with_more_than_the_system_allows() {
        let items: Vec<usize> = (0..3).collect();
        for jobs in [0, usize::MAX] {
            assert_eq!(map(jobs, &items, || (), |(), &item| Ok(item)).unwrap(), items);
        }
    }

    #[test]
    fn tells_the_work_how_many_threads_there_are() {
        let items: Vec<usize> = (0..9).collect();
        let jobs = map(3, &items, || (), |(), _| Ok(current_jobs())).unwrap();
        assert_eq!((jobs, current_jobs()), (vec![3; 9], 1));
    }

    #[test]
    fn stops_after_an_error_and_returns_it() {
        let items: Vec<usize> = (0..1000).collect();
        let started = AtomicUsize::new(0);
        let result = map(
            2,
            &items,
            || (),
            |(), &item| {
                started.fetch_add(1, Ordering::Relaxed);
                if item == 3 { Err(Error::usage("three")) } else { Ok(()) }
            },
        );
        assert_eq!(result.unwrap_err().to_string(), "three");
        assert!(started.load(Ordering::Relaxed) < 1000);
    }
}
