//! Remembers what was read of each file, in a database that several programs may use at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use super::file::Examined;
use crate::report::{AuditFinding, AuditedFile};
use trinart_ckpt_formats::io::identity_text;
use trinart_ckpt_models::FileKind;

/// The entries by path. The number changes when entries change their meaning.
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("files-3");

/// How often, and after which time, to try again if another program has the database open. It is open for moments only.
const ATTEMPTS: u32 = 100;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How long results wait until they are written.
const WAIT: Duration = Duration::from_secs(10);

/// The results of earlier audits. What cannot be read or written is not remembered.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    entries: Vec<(String, Vec<u8>)>,
    since: Instant,
}

/// What identifies the content of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970, as text: numbers of JSON have no such precision.
    modified: String,
    identity: String,
    program: String,
}

impl Stamp {
    /// `None` for a folder: its files can change without it.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let modified = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos().to_string();
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Some(Stamp { bytes: found.len(), modified, identity: identity_text(path).ok()?, program })
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    row: AuditedFile,
    findings: Vec<AuditFinding>,
    kind: Option<String>,
}

/// What is remembered of a file that has not changed.
pub(super) struct Remembered {
    pub(super) examined: Examined,
}

impl Memory {
    /// Returns the memory in a file, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let waiting = Waiting { entries: Vec::new(), since: Instant::now() };
        Memory { path: path.into(), waiting: Mutex::new(waiting) }
    }

    /// Opens the database. Replaces a file that is not a database: its content only saves time.
    fn open(&self) -> Option<Database> {
        fs::create_dir_all(self.path.parent()?).ok()?;
        let mut is_fresh = false;
        for _ in 0..ATTEMPTS {
            match Database::create(&self.path) {
                Ok(database) => return Some(database),
                Err(DatabaseError::DatabaseAlreadyOpen) => thread::sleep(RETRY_AFTER),
                Err(_) if !is_fresh => {
                    is_fresh = true;
                    fs::remove_file(&self.path).ok()?;
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// Returns what is remembered of each path.
    pub(super) fn load(&self, paths: &[PathBuf]) -> Vec<Option<Remembered>> {
        let entries = self.read(paths).unwrap_or_default();
        let mut entries = entries.into_iter();
        let found = |path: &PathBuf| entries.next().flatten().and_then(|bytes| remembered(path, &bytes));
        paths.iter().map(found).collect()
    }

    fn read(&self, paths: &[PathBuf]) -> Option<Vec<Option<Vec<u8>>>> {
        if !self.path.exists() {
            return None;
        }
        let database = self.open()?;
        let transaction = database.begin_read().ok()?;
        let table = match transaction.open_table(TABLE) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return None,
            Err(_) => return None,
        };
        let get = |path: &PathBuf| table.get(key(path)?.as_str()).ok()?.map(|found| found.value().to_vec());
        Some(paths.iter().map(get).collect())
    }

    /// Remembers a file. It is written later, together with others.
    pub(super) fn add(&self, path: &Path, examined: &Examined) {
        let Some((key, stamp)) = key(path).zip(Stamp::of(path)) else { return };
        let kind = examined.kind.map(|kind| kind.name().to_owned());
        let entry = Entry { stamp, row: examined.row.clone(), findings: examined.findings.clone(), kind };
        let Ok(bytes) = serde_json::to_vec(&entry) else { return };
        let mut waiting = self.waiting();
        waiting.entries.push((key, bytes));
        if waiting.since.elapsed() > WAIT {
            self.write(&mut waiting);
        }
    }

    /// Writes what waits to be written.
    pub(super) fn flush(&self) {
        self.write(&mut self.waiting());
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, waiting: &mut Waiting) {
        waiting.since = Instant::now();
        let entries = std::mem::take(&mut waiting.entries);
        if entries.is_empty() {
            return;
        }
        // Without a memory, the next run reads the files again.
        let _ = self.try_write(&entries);
    }

    fn try_write(&self, entries: &[(String, Vec<u8>)]) -> Option<()> {
        let database = self.open()?;
        let transaction = database.begin_write().ok()?;
        {
            let mut table = transaction.open_table(TABLE).ok()?;
            for (key, bytes) in entries {
                table.insert(key.as_str(), bytes.as_slice()).ok()?;
            }
        }
        transaction.commit().ok()
    }
}

/// The key of a path: without links, so that each way to a file leads to one entry.
fn key(path: &Path) -> Option<String> {
    path.canonicalize().ok()?.into_os_string().into_string().ok()
}

fn remembered(path: &Path, bytes: &[u8]) -> Option<Remembered> {
    let mut entry: Entry = serde_json::from_slice(bytes).ok()?;
    // The row has the path of the earlier run.
    let (earlier, now) = (entry.row.file.clone(), path.to_string_lossy().into_owned());
    if earlier != now || entry.stamp != Stamp::of(path)? {
        return None;
    }
    let kind = match entry.kind {
        Some(name) => Some(FileKind::ALL.iter().copied().find(|kind| kind.name() == name)?),
        None => None,
    };
    entry.findings.retain(|finding| finding.file == now);
    Some(Remembered { examined: Examined { row: entry.row, findings: entry.findings, kind } })
}
