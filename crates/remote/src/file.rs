use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Runtime;
use trinart_ckpt_formats::error::{Error, Kind, OrInternal, Result};
use trinart_ckpt_formats::io::remote::RemoteFile;

use crate::cache::{BLOCK, Block, Cache, Key};
use crate::client::Client;

/// Bytes of the largest request.
const PIECE: u64 = 4 << 20;

/// Bytes that are fetched first: the header of most checkpoints (130 KB of SD v1, 300 KB of SDXL).
pub(crate) const HEAD: u64 = 512 << 10;

/// Bytes of a read that is one of values: then all of its piece is needed soon.
const DATA: u64 = 128 << 10;

/// Bytes that are read one after another before the program reads ahead: more than most headers have.
const BEFORE_AHEAD: u64 = 4 << 20;

/// Bytes that are read ahead.
const AHEAD: u64 = 16 << 20;

/// How far a read may be from the end of another and still follow it: threads read the parts of a file in turn.
const NEAR: u64 = 4 << 20;

/// Places in a file that are read one after another.
const SEQUENCES: usize = 8;

/// A future that can be sent to another thread.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Brings bytes of a file here.
pub(crate) trait Fetch: fmt::Debug + Send + Sync {
    /// Passes the bytes of a range to `sink`, in order and completely.
    fn fetch<'a>(&'a self, range: Range<u64>, sink: &'a mut (dyn FnMut(Bytes) + Send)) -> Boxed<'a, ()>;

    /// Fails if the file has changed.
    fn check(&self) -> Boxed<'_, ()>;
}

/// The error for a file that is not the one that was opened.
pub(crate) fn changed(what: &str) -> Error {
    Error::mismatch(format!("the file on the server changed while it was being read: {what}"))
}

/// What all files have in common: threads, connections, blocks.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    state: Mutex<State>,
    arrived: Condvar,
    files: AtomicU64,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// Why a block did not arrive.
    failures: HashMap<Key, (Kind, String)>,
}

impl Shared {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start the threads of the network", error))?;
        let (state, arrived) = (Mutex::default(), Condvar::new());
        Ok(Arc::new(Shared { runtime, client: Client::new()?, state, arrived, files: AtomicU64::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a file when it is opened.
pub(crate) struct Opened {
    pub(crate) bytes: u64,
    /// The tag, or what stands for it.
    pub(crate) tag: Option<String>,
    pub(crate) stated_sha256: Option<String>,
    pub(crate) fetch: Arc<dyn Fetch>,
    /// The first bytes, if they came with the answer.
    pub(crate) head: Bytes,
}

impl Opened {
    /// Text that differs if the content does, as far as the server tells.
    pub(crate) fn version(&self) -> String {
        format!("{} {}", self.bytes, self.tag.as_deref().unwrap_or_default())
    }
}

/// A file whose blocks are kept, and read ahead.
pub(crate) struct CachedFile {
    shared: Arc<Shared>,
    id: u64,
    opened: Opened,
    sequences: Mutex<Vec<Sequence>>,
}

/// Reads that follow one another.
struct Sequence {
    end: u64,
    /// Bytes that were read.
    read: u64,
}

impl fmt::Debug for CachedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFile").field("bytes", &self.opened.bytes).finish_non_exhaustive()
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.shared.state().cache.forget_file(self.id);
    }
}

impl CachedFile {
    pub(crate) fn new(shared: Arc<Shared>, mut opened: Opened) -> Self {
        let id = shared.files.fetch_add(1, Ordering::Relaxed);
        let head = std::mem::take(&mut opened.head);
        let mut at = 0;
        let mut state = shared.state();
        while at < head.len() {
            let end = (at + BLOCK as usize).min(head.len());
            if end - at == BLOCK as usize || end as u64 == opened.bytes {
                state.cache.insert((id, at as u64 / BLOCK), head.slice(at..end));
            }
            at = end;
        }
        drop(state);
        CachedFile { shared, id, opened, sequences: Mutex::default() }
    }

    /// Notes a read. Returns how far to fetch now, and how far to read ahead.
    fn note(&self, range: &Range<u64>) -> (u64, u64) {
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let found = sequences.iter().position(|sequence| range.start.abs_diff(sequence.end) <= NEAR);
        let mut sequence = found.map_or(Sequence { end: range.start, read: 0 }, |found| sequences.remove(found));
        let (before, bytes) = (sequence.read, range.end - range.start);
        // What is read again counts once.
        let end = sequence.end.max(range.end);
        sequence.read += end - sequence.end;
        sequence.end = end;
        let is_long = sequence.read > BEFORE_AHEAD;
        // The latest is the last one.
        sequences.push(sequence);
        if sequences.len() > SEQUENCES {
            sequences.remove(0);
        }
        let ahead = if is_long { end + AHEAD } else { 0 };
        let now = match range.start {
            // A header, read whole or bit by bit.
            ..HEAD => range.end.max(HEAD),
            _ if bytes >= DATA || before >= 2 * HEAD => range.end.next_multiple_of(PIECE),
            _ => range.end + before.min(PIECE) / 2,
        };
        (now.min(self.opened.bytes), ahead.min(self.opened.bytes))
    }

    /// Requests the blocks of a range that are neither here nor requested, those of each piece together.
    fn request(&self, range: Range<u64>) {
        let mut runs: Vec<Range<u64>> = Vec::new();
        {
            let mut state = self.shared.state();
            for number in range.start / BLOCK..range.end.div_ceil(BLOCK) {
                let key = (self.id, number);
                if state.cache.has(key) {
                    continue;
                }
                state.cache.expect(key);
                state.failures.remove(&key);
                let (begin, end) = (number * BLOCK, ((number + 1) * BLOCK).min(self.opened.bytes));
                match runs.last_mut() {
                    Some(last) if last.end == begin && end - last.start <= PIECE => last.end = end,
                    _ => runs.push(begin..end),
                }
            }
        }
        for run in runs {
            let (shared, fetch, id) = (Arc::clone(&self.shared), Arc::clone(&self.opened.fetch), self.id);
            self.shared.runtime.spawn(async move { bring(&shared, id, fetch.as_ref(), run).await });
        }
    }

    fn read_part(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = offset..offset + out.len() as u64;
        let (now, ahead) = self.note(&range);
        self.request(range.start..now);
        // Whole pieces only.
        let mut begin = now;
        while begin < ahead {
            let end = (begin + 1).next_multiple_of(PIECE).min(self.opened.bytes);
            self.request(begin..end);
            begin = end;
        }
        let mut rest = out;
        let mut at = offset;
        while !rest.is_empty() {
            let bytes = self.block(at / BLOCK)?;
            let found = bytes.get((at % BLOCK) as usize..).or_internal("a block is shorter than its place")?;
            let count = found.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(found.get(..count).or_internal("a block is shorter than a read")?);
            if count == 0 {
                return Err(Error::internal("an empty block"));
            }
            rest = tail;
            at += count as u64;
        }
        Ok(())
    }

    /// Waits for a block.
    fn block(&self, number: u64) -> Result<Bytes> {
        let key = (self.id, number);
        loop {
            let mut state = self.shared.state();
            loop {
                match state.cache.get(key) {
                    Some(Block::Ready(bytes)) => return Ok(bytes.clone()),
                    Some(Block::Pending) => {
                        state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    None => match state.failures.remove(&key) {
                        Some((kind, message)) => return Err(Error::new(kind, message)),
                        None => break,
                    },
                }
            }
            drop(state);
            // It made room for others before it was read.
            self.request(number * BLOCK..((number + 1) * BLOCK).min(self.opened.bytes));
        }
    }
}

/// Fetches a run of blocks.
async fn bring(shared: &Shared, id: u64, fetch: &dyn Fetch, run: Range<u64>) {
    let mut at = run.start;
    let mut block = BytesMut::with_capacity(BLOCK as usize);
    let mut sink = |mut bytes: Bytes| {
        while !bytes.is_empty() {
            let count = (BLOCK as usize - block.len()).min(bytes.len());
            block.extend_from_slice(&bytes.split_to(count));
            let end = at + block.len() as u64;
            if block.len() as u64 == BLOCK || end == run.end {
                let whole = std::mem::replace(&mut block, BytesMut::with_capacity(BLOCK as usize)).freeze();
                shared.state().cache.insert((id, at / BLOCK), whole);
                shared.arrived.notify_all();
                at = end;
            }
        }
    };
    let result = match shared.client.connection().await {
        Ok(_permit) => fetch.fetch(run.clone(), &mut sink).await,
        Err(error) => Err(error),
    };
    let complete = if at < run.end { Err(Error::internal("a range did not arrive whole")) } else { Ok(()) };
    if let Err(error) = result.and(complete) {
        let mut state = shared.state();
        for number in at / BLOCK..run.end.div_ceil(BLOCK) {
            state.cache.forget((id, number));
            state.failures.insert((id, number), (error.kind(), error.message().to_owned()));
        }
    }
    shared.arrived.notify_all();
}

impl RemoteFile for CachedFile {
    fn bytes(&self) -> u64 {
        self.opened.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        // A long read is divided, because the cache may not hold all of it.
        let mut at = offset;
        for part in out.chunks_mut(2 * PIECE as usize) {
            self.read_part(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<()> {
        self.shared.runtime.block_on(self.opened.fetch.check())
    }

    fn stated_sha256(&self) -> Option<&str> {
        self.opened.stated_sha256.as_deref()
    }

    fn version(&self) -> String {
        self.opened.version()
    }
}
