//! Items in a sled database, used in the one shape in which it was found to be reliable.
//!
//! One tree, one thread, plain inserts and removals, then the `applied` key, then a flush, for
//! every batch: sled's batches and transactions without a flush deadlock now and then, and its
//! `len` walks the tree. What the flush does not promise after a crash of the machine is not
//! relied upon: without a mark of an orderly stop the database of an earlier boot is moved aside.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use passerelle_disk::{Disk, DiskError};
use passerelle_proto::Digest;

use super::item::{Item, ItemKey};
use super::store::{Applied, Part, Store, StoreError};

/// Cache of the database in bytes.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// How long the database may take for one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a database that was closed may keep its file locked: sled gives the lock back when the
/// last task of its own threads has ended, which may be after its handle is gone.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(10);
/// Requests that may wait for the database's thread.
const REQUESTS_MAX: usize = 1024;
/// Writes that may be on their way before one is waited for.
const WRITES_MAX: usize = REQUESTS_MAX / 2;

const APPLIED: &[u8] = b"applied";
const ITEM_PREFIX: u8 = b'i';
const RETAINED_PREFIX: u8 = b'r';
/// Holds the id of the boot that has the database open; gone after an orderly stop.
const OPEN_MARK: &str = "open";
/// Folder in which the database does its own I/O.
const DATABASE: &str = "db";
/// The file in it that sled locks.
const LOCKED: &str = "db";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

type Task = Box<dyn FnOnce(&Tree) + Send>;

/// The handle; the database itself lives in a thread of its own.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Arc<dyn Disk>,
    engine: Engine,
    applied: Applied,
    mark: PathBuf,
}

/// The thread of the database. Dropped, it waits until the database is closed.
#[derive(Debug)]
struct Engine {
    tasks: Option<mpsc::SyncSender<Task>>,
    thread: Option<thread::JoinHandle<()>>,
    stuck: AtomicBool,
    /// Writes since an answer was waited for.
    unanswered: usize,
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take()
            && !self.stuck.load(Ordering::Relaxed)
        {
            // It has panicked: there is nothing left to close.
            let _ = thread.join();
        }
    }
}

impl Database {
    /// Opens or creates the database below `dir`.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, StoreError> {
        let file_error = |cause: DiskError| StoreError::Database {
            operation: "making its directory",
            cause: cause.to_string(),
        };
        disk.create_directories(dir).map_err(file_error)?;
        let (db, mark) = (dir.join(DATABASE), dir.join(OPEN_MARK));
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let crashed = disk
            .read(&mark)
            .is_ok_and(|opened| opened != boot.as_bytes());
        if crashed {
            tracing::warn!("the machine stopped without notice: rebuilding the queue");
            move_aside(disk.as_ref(), &db).map_err(file_error)?;
        }
        // Before anything is written: without it, what a power cut left would be believed.
        disk.replace(&mark, boot.as_bytes()).map_err(file_error)?;
        wait_until_unlocked(&db.join(LOCKED))?;
        let (engine, applied) = match Engine::start(&db) {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!(%error, "the queue database cannot be opened: rebuilding it");
                move_aside(disk.as_ref(), &db).map_err(file_error)?;
                Engine::start(&db)?
            }
        };
        Ok(Self {
            disk: disk.clone(),
            engine,
            applied,
            mark,
        })
    }
}

/// Waits for whoever had the database open before: one that is in use is neither damaged nor may it
/// be moved away.
fn wait_until_unlocked(path: &Path) -> Result<(), StoreError> {
    let refuse = |cause: String| StoreError::Database {
        operation: "waiting for its lock",
        cause: format!("{}: {cause}", path.display()),
    };
    // No file, no lock; what else is wrong with it, the engine says.
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    let (unlocked, waiting) = mpsc::sync_channel(1);
    let wait = move || {
        let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive);
        drop(file);
        // Whoever waited may have given up.
        let _ = unlocked.send(locked);
    };
    let thread = thread::Builder::new().name("queue-lock".to_owned());
    thread
        .spawn(wait)
        .map_err(|error| refuse(error.to_string()))?;
    match waiting.recv_timeout(UNLOCKED_WITHIN) {
        Ok(locked) => locked.map_err(|error| refuse(error.to_string())),
        Err(_) => Err(refuse("another process has it open: stop it first".into())),
    }
}

/// A database that was set aside is kept until the next one is, for whoever wants to look.
fn move_aside(disk: &dyn Disk, db: &Path) -> Result<(), DiskError> {
    let aside = db.with_extension("aside");
    disk.remove_tree(&aside)?;
    match disk.is_dir(db) {
        true => disk.rename_synced(db, &aside),
        false => Ok(()),
    }
}

impl Engine {
    fn start(db: &Path) -> Result<(Self, Applied), StoreError> {
        let refuse = |cause: String| StoreError::Database {
            operation: "opening",
            cause,
        };
        let (tasks, queue) = mpsc::sync_channel::<Task>(REQUESTS_MAX);
        let (opened, opening) = mpsc::sync_channel(1);
        let path = db.to_path_buf();
        let thread = move || match Tree::open(&path) {
            Ok(tree) => {
                let _ = opened.send(Ok(()));
                queue.into_iter().for_each(|task| task(&tree));
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        };
        let thread = thread::Builder::new()
            .name("queue".to_owned())
            .spawn(thread)
            .map_err(|error| refuse(error.to_string()))?;
        let engine = Self {
            tasks: Some(tasks),
            thread: Some(thread),
            stuck: AtomicBool::new(false),
            unanswered: 0,
        };
        let answer = opening.recv_timeout(ANSWER_WITHIN).map_err(|error| {
            let hangs = error == mpsc::RecvTimeoutError::Timeout;
            engine.stuck.store(hangs, Ordering::Relaxed);
            // A panic of the engine on a damaged file ends the thread and so this wait.
            refuse("the engine has given up or hangs".to_owned())
        })?;
        answer.map_err(|error| refuse(error.to_string()))?;
        let applied = match engine.ask("reading how far it is", Tree::applied)? {
            Some(bytes) => decode_applied(&bytes).ok_or(StoreError::Record)?,
            None => {
                // What a first batch, or a clearing, left half done.
                engine.ask("clearing", Tree::clear)?;
                Applied::nothing()
            }
        };
        Ok((engine, applied))
    }

    /// Has `write` done in the database's thread; whether it failed is said by the next commit.
    fn tell(
        &mut self,
        operation: &'static str,
        write: impl FnOnce(&Tree) -> sled::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.unanswered += 1;
        if self.unanswered >= WRITES_MAX {
            // Waits with a limit: a database that hangs is noticed here and not in a full channel.
            self.unanswered = 0;
            self.ask(operation, |_| Ok(()))?;
        }
        let task: Task = Box::new(move |tree| tree.keep_failure(write(tree)));
        let sent = self
            .tasks
            .as_ref()
            .is_some_and(|tasks| tasks.send(task).is_ok());
        sent.then_some(()).ok_or(StoreError::Stuck { operation })
    }

    /// Runs `task` in the database's thread and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        task: impl FnOnce(&Tree) -> sled::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let task: Task = Box::new(move |tree| {
            // Whoever has given up waiting no longer wants the answer.
            let _ = answer.send(task(tree));
        });
        let sent = self
            .tasks
            .as_ref()
            .is_some_and(|tasks| tasks.send(task).is_ok());
        let answer = match answered.recv_timeout(ANSWER_WITHIN) {
            Ok(answer) if sent => answer,
            outcome => {
                let hangs = matches!(outcome, Err(mpsc::RecvTimeoutError::Timeout));
                self.stuck.store(hangs, Ordering::Relaxed);
                return Err(StoreError::Stuck { operation });
            }
        };
        answer.map_err(|error| StoreError::Database {
            operation,
            cause: error.to_string(),
        })
    }
}

impl Store for Database {
    fn get(&self, key: ItemKey) -> Result<Option<Item>, StoreError> {
        let record = self
            .engine
            .ask("reading an item", move |tree| tree.get(key))?;
        let decode = |bytes: Vec<u8>| Item::decode(&bytes).ok_or(StoreError::Record);
        record.map(decode).transpose()
    }

    fn put(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError> {
        let record = item.encode();
        self.engine
            .tell("writing an item", move |tree| tree.put(key, record))
    }

    fn remove(&mut self, key: ItemKey) -> Result<(), StoreError> {
        self.engine
            .tell("removing an item", move |tree| tree.remove(key))
    }

    fn commit(&mut self, applied: Applied) -> Result<(), StoreError> {
        self.engine
            .ask("flushing", move |tree| tree.commit(applied))?;
        self.applied = applied;
        Ok(())
    }

    fn applied(&self) -> Applied {
        self.applied
    }

    fn scan(
        &self,
        part: Part,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Item)>, StoreError> {
        let records = self
            .engine
            .ask("listing items", move |tree| tree.scan(part, after, limit))?;
        let decode = |(key, record): (Vec<u8>, Vec<u8>)| {
            let key = ItemKey::from_bytes(&key).ok_or(StoreError::Record)?;
            Ok((key, Item::decode(&record).ok_or(StoreError::Record)?))
        };
        records.into_iter().map(decode).collect()
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.engine.ask("clearing", Tree::clear)?;
        self.applied = Applied::nothing();
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let applied = self.applied;
        self.engine
            .ask("flushing", move |tree| tree.commit(applied))?;
        // What the database has flushed is with the system, not yet on the disk.
        let synced = self.disk.sync_tree(&self.mark.with_file_name(DATABASE));
        let stopped = synced.and_then(|()| self.disk.remove_synced(&self.mark));
        stopped.map_err(|error| StoreError::Database {
            operation: "marking an orderly stop",
            cause: error.to_string(),
        })
    }
}

/// The one tree, in its thread.
struct Tree {
    db: sled::Db,
    /// The first write that failed: nothing can be committed after it.
    failure: RefCell<Option<sled::Error>>,
}

impl Tree {
    fn open(path: &Path) -> sled::Result<Self> {
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .open()?;
        let failure = RefCell::new(None);
        Ok(Self { db, failure })
    }

    fn keep_failure(&self, written: sled::Result<()>) {
        if let Err(error) = written {
            self.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn applied(&self) -> sled::Result<Option<Vec<u8>>> {
        Ok(self.db.get(APPLIED)?.map(|bytes| bytes.to_vec()))
    }

    fn get(&self, key: ItemKey) -> sled::Result<Option<Vec<u8>>> {
        Ok(self.db.get(item_key(key))?.map(|bytes| bytes.to_vec()))
    }

    fn put(&self, key: ItemKey, record: Vec<u8>) -> sled::Result<()> {
        self.db.insert(item_key(key), record).map(drop)
    }

    fn remove(&self, key: ItemKey) -> sled::Result<()> {
        self.db.remove(item_key(key)).map(drop)
    }

    fn commit(&self, applied: Applied) -> sled::Result<()> {
        if let Some(error) = self.failure.borrow().clone() {
            return Err(error);
        }
        self.db.insert(APPLIED, encode_applied(applied))?;
        self.db.flush().map(|_| ())
    }

    fn scan(
        &self,
        part: Part,
        after: Option<ItemKey>,
        limit: usize,
    ) -> sled::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let prefix = match part {
            Part::Open => ITEM_PREFIX,
            Part::Retained => RETAINED_PREFIX,
        };
        // One zero byte more: the first key behind `after`.
        let start = match after {
            Some(key) => [&[prefix][..], &key.to_bytes(), &[0]].concat(),
            None => vec![prefix],
        };
        let range = self.db.range(start..vec![prefix + 1]);
        range
            .take(limit)
            .map(|record| record.map(|(key, record)| (key[1..].to_vec(), record.to_vec())))
            .collect()
    }

    fn clear(&self) -> sled::Result<()> {
        // The `applied` key goes first: a half-cleared database must look like an empty one.
        self.db.remove(APPLIED)?;
        self.db.flush()?;
        self.db.clear()?;
        self.db.flush().map(|_| ())
    }
}

fn item_key(key: ItemKey) -> Vec<u8> {
    // What is kept for long lies by itself: no list of what waits has to step over it.
    let prefix = match key.is_retained() {
        true => RETAINED_PREFIX,
        false => ITEM_PREFIX,
    };
    [&[prefix][..], &key.to_bytes()].concat()
}

fn encode_applied(applied: Applied) -> Vec<u8> {
    [&applied.size.to_be_bytes()[..], &applied.root.0].concat()
}

fn decode_applied(bytes: &[u8]) -> Option<Applied> {
    let (size, root) = bytes.split_first_chunk::<8>()?;
    Some(Applied {
        size: u64::from_be_bytes(*size),
        root: Digest::from_slice(root).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use passerelle_proto::v1::{self, entry::Event};
    use passerelle_proto::{Hop, Timestamp};
    use prost::Message;

    use super::*;
    use crate::queue::{ItemView, PAGE_MAX, Queue, SledQueue};

    fn open(dir: &Path) -> SledQueue {
        SledQueue::open(&passerelle_disk::system(), dir).unwrap()
    }

    fn accepted() -> v1::Entry {
        let manifest = v1::Manifest {
            flow: "observation-iris".into(),
            sender: "caf21".into(),
            ..v1::Manifest::default()
        };
        let hop = Hop::gateway("grand-dijon".parse().unwrap());
        let event = Event::Accepted(v1::AcceptedEvent {
            manifest: Some(v1::Signed {
                body: manifest.encode_to_vec(),
                ..v1::Signed::default()
            }),
            routes: vec![v1::Route {
                next_hop: Some(hop.to_message()),
                recipients: vec!["grand-dijon".into()],
            }],
            deadline_ms: 1_000,
            ..v1::AcceptedEvent::default()
        });
        let event = Some(event);
        v1::Entry { at_ms: 0, event }
    }

    fn due(queue: &SledQueue) -> Vec<ItemView> {
        let always = Timestamp::from_ms(i64::MAX);
        queue.due(always, PAGE_MAX).unwrap()
    }

    /// Leaves of the records of a process that was killed only these.
    fn keep_only(dir: &Path, wanted: impl Fn(&[u8]) -> bool) {
        let db = dir.join(DATABASE);
        wait_until_unlocked(&db.join(LOCKED)).unwrap();
        let tree = Tree::open(&db).unwrap();
        for key in tree.db.iter().keys() {
            let key = key.unwrap();
            if key.as_ref() != APPLIED && !wanted(&key) {
                tree.db.remove(key).unwrap();
            }
        }
        tree.db.flush().unwrap();
        drop(tree);
        wait_until_unlocked(&db.join(LOCKED)).unwrap();
    }

    #[test]
    fn deadlines_follow_from_the_items_whatever_of_a_batch_a_kill_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        queue.apply(0, &[accepted()], Digest::of(b"")).unwrap();
        let before = due(&queue);
        assert_eq!(before.len(), 1);
        drop(queue);
        let is_item = |key: &[u8]| key[0] == ITEM_PREFIX;
        keep_only(dir.path(), is_item);
        let queue = open(dir.path());
        assert_eq!(due(&queue), before);
        drop(queue);
        keep_only(dir.path(), |key| !is_item(key));
        let queue = open(dir.path());
        assert_eq!(due(&queue), []);
        assert_eq!(queue.next_due().unwrap(), None);
    }
}
