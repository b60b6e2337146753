//! All sandboxes in memory, by id and by age. A plain synchronous structure; it does no I/O and waits for nothing.

use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use atoll_core::{
    driver::{ListQuery, Page, Position},
    id::SandboxId,
    phase::Phase,
    sandbox::Sandbox,
};

use crate::record::Record;

/// A sandbox in memory.
pub struct Entry {
    record: RwLock<Arc<Record>>,
    /// Latest reported activity, in milliseconds since the epoch.
    activity: AtomicI64,
    /// Whoever changes the sandbox holds this meanwhile: one change at a time.
    pub changing: Mutex<()>,
    going: CancellationToken,
}

impl Entry {
    /// An entry of a record.
    pub fn new(record: Record) -> Arc<Self> {
        let activity = AtomicI64::new(record.sandbox.last_activity.as_millisecond());
        Arc::new(Self {
            record: RwLock::new(Arc::new(record)),
            activity,
            changing: Mutex::new(()),
            going: CancellationToken::new(),
        })
    }

    /// The record as it is now.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the record; only by the holder of `changing`.
    pub fn set(&self, record: Record) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// Makes those who wait for it find nothing to do; only by the holder of `changing`.
    pub fn never_was(&self) {
        let mut record = Record::clone(&self.record());
        record.sandbox.phase = Phase::Terminating;
        self.set(record);
    }

    /// Reports activity.
    pub fn touch(&self, at: Timestamp) {
        self.activity.fetch_max(at.as_millisecond(), Ordering::Relaxed);
    }

    /// Latest reported activity.
    pub fn activity(&self) -> Timestamp {
        Timestamp::from_millisecond(self.activity.load(Ordering::Relaxed)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Lets a start that is under way end, because the sandbox is to go.
    pub fn cancel(&self) {
        self.going.cancel();
    }

    /// Returns when the sandbox is to go.
    pub async fn cancelled(&self) {
        self.going.cancelled().await;
    }

    /// The sandbox with its latest activity.
    pub fn sandbox(&self) -> Sandbox {
        let mut sandbox = self.record().sandbox.clone();
        sandbox.last_activity = sandbox.last_activity.max(self.activity());
        sandbox
    }
}

#[derive(Default)]
struct Indexes {
    by_id: HashMap<SandboxId, Arc<Entry>>,
    by_age: BTreeMap<Position, Arc<Entry>>,
}

/// All entries.
#[derive(Default)]
pub struct Table {
    indexes: RwLock<Indexes>,
}

impl Table {
    /// Adds an entry; `false` when its id is taken.
    pub fn insert(&self, entry: &Arc<Entry>) -> bool {
        let record = entry.record();
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        if indexes.by_id.contains_key(record.sandbox.id()) {
            return false;
        }
        indexes.by_id.insert(record.sandbox.id().clone(), Arc::clone(entry));
        indexes.by_age.insert(Position::of(&record.sandbox), Arc::clone(entry));
        true
    }

    /// Takes an entry out.
    pub fn remove(&self, sandbox: &Sandbox) {
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        indexes.by_id.remove(sandbox.id());
        indexes.by_age.remove(&Position::of(sandbox));
    }

    /// One entry.
    pub fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    /// Every entry.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// A page of those that match. Its cost follows from the page, not from the number of all.
    pub fn list(&self, query: &ListQuery) -> Page {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        let after = query.cursor.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = indexes
            .by_age
            .range((after, Bound::Unbounded))
            .filter(|(_, entry)| query.matches(&entry.record().sandbox));
        let items: Vec<Sandbox> =
            matching.by_ref().take(query.limit).map(|(_, entry)| entry.sandbox()).collect();
        let more = matching.next().is_some();
        let next = items.last().filter(|_| more).map(Position::of);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    fn table(count: u8) -> Table {
        let table = Table::default();
        for n in 0..count {
            let mut sandbox = sandbox(n);
            sandbox.spec.created_at = Timestamp::from_second(i64::from(n)).unwrap();
            sandbox.spec.labels.insert("odd".into(), (n % 2).to_string());
            let record =
                Record { sandbox, slot: 0, image: None, process: None, group: None, populated: false };
            assert!(table.insert(&Entry::new(record)));
        }
        table
    }

    #[test]
    fn pages_are_newest_first_and_complete() {
        let table = table(10);
        let mut query = ListQuery { limit: 3, ..ListQuery::default() };
        let mut seen = Vec::new();
        loop {
            let page = table.list(&query);
            seen.extend(page.items.iter().map(|s| s.spec.created_at.as_second()));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..10).rev().collect::<Vec<i64>>());
    }

    #[test]
    fn filters_hold_over_pages() {
        let table = table(10);
        let labels = BTreeMap::from([("odd".to_owned(), "1".to_owned())]);
        let page = table.list(&ListQuery { labels, limit: 5, ..ListQuery::default() });
        assert_eq!((page.items.len(), page.next), (5, None));
        let other = ListQuery { tenant: Some("other".into()), limit: 5, ..ListQuery::default() };
        assert!(table.list(&other).items.is_empty());
    }

    #[test]
    fn activity_only_grows_and_ids_are_unique() {
        let table = table(1);
        let entry = table.get(sandbox(0).id()).unwrap();
        entry.touch(Timestamp::from_second(50).unwrap());
        entry.touch(Timestamp::from_second(40).unwrap());
        assert_eq!(entry.sandbox().last_activity.as_second(), 50);
        assert!(!table.insert(&entry));
        table.remove(&entry.sandbox());
        assert!(table.get(sandbox(0).id()).is_none() && table.all().is_empty());
    }
}
