//! What the gateway must know of sandboxes to find and guard them, rebuilt from the driver. It has no task of its own:
//! whoever asks first takes in the driver's events since, so that the answer is never older than the driver's word.

use atoll_core::{
    driver::{Driver, DriverError, Event, ListQuery},
    id::SandboxId,
    owner,
    phase::Phase,
    sandbox::Sandbox,
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};
use tokio::sync::{
    Mutex, MutexGuard,
    broadcast::{Receiver, error::TryRecvError},
};

/// Sandboxes that are asked for at once.
const PAGE: usize = 1000;
/// Sandboxes of before that are remembered, about a hundred bytes each.
const REMEMBERED: usize = 8192;

/// What is known of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: SandboxId,
    pub tenant: String,
    pub public: bool,
    pub ports: BTreeMap<String, u16>,
    pub phase: Phase,
    /// Whether it is a user's own.
    pub owned: bool,
    /// Whether its agent asks for no token.
    pub agent_open: bool,
    /// Whether a request wakes it.
    pub wakes: bool,
    /// What applications see as `Host`.
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS.
    pub https_ports: Vec<u16>,
    label: Option<String>,
    created_at: Timestamp,
}

impl Known {
    pub fn of(sandbox: &Sandbox) -> Self {
        let spec = &sandbox.spec;
        Self {
            id: spec.id.clone(),
            tenant: spec.tenant.clone(),
            public: spec.public,
            ports: spec.ports.clone(),
            phase: sandbox.phase,
            owned: spec.owner.is_some(),
            agent_open: spec.agent_open,
            wakes: spec.lifecycle.wake_on_request,
            mask_host: spec.mask_host.clone(),
            https_ports: spec.https_ports.clone(),
            label: spec.owner.as_deref().map(|owner| owner::label(&spec.tenant, owner)),
            created_at: spec.created_at,
        }
    }
}

/// Sandboxes that everybody could see and that are gone, the last ones: of these alone it may be told. Not those of users,
/// whose ids may come again and be private then.
#[derive(Debug, Default)]
struct Gone {
    ids: HashSet<SandboxId>,
    oldest_first: VecDeque<SandboxId>,
}

impl Gone {
    fn remember(&mut self, known: &Known) {
        if !known.public || known.owned || !self.ids.insert(known.id.clone()) {
            return;
        }
        self.oldest_first.push_back(known.id.clone());
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Every sandbox, by id and by the label of its owner.
#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<SandboxId, Arc<Known>>,
    by_label: HashMap<String, BTreeSet<(Timestamp, SandboxId)>>,
    gone: Gone,
}

impl Table {
    fn put(&mut self, sandbox: &Sandbox) {
        let known = Known::of(sandbox);
        if let Some(label) = &known.label {
            let mine = self.by_label.entry(label.clone()).or_default();
            mine.insert((known.created_at, known.id.clone()));
        }
        self.by_id.insert(known.id.clone(), Arc::new(known));
    }

    fn take(&mut self, id: &SandboxId) {
        let Some(known) = self.by_id.remove(id) else { return };
        self.gone.remember(&known);
        let Some(label) = &known.label else { return };
        if let Some(mine) = self.by_label.get_mut(label) {
            mine.remove(&(known.created_at, known.id.clone()));
            if mine.is_empty() {
                self.by_label.remove(label);
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event.gone {
            true => self.take(event.sandbox.id()),
            false => self.put(&event.sandbox),
        }
    }

    /// Takes the place of a table that missed something: what that knew and this does not is gone.
    fn replace(&mut self, mut old: Self) {
        for known in old.by_id.values().filter(|known| !self.by_id.contains_key(&known.id)) {
            old.gone.remember(known);
        }
        self.gone = old.gone;
    }

    /// A user's primary sandbox: their oldest one that can be used, or that failed when there is no other.
    fn primary(&self, label: &str) -> Option<&Arc<Known>> {
        let mine = self.by_label.get(label)?;
        let all = || mine.iter().filter_map(|(_, id)| self.by_id.get(id));
        let usable = |it: &&Arc<Known>| !matches!(it.phase, Phase::Terminating | Phase::Failed);
        all().find(usable).or_else(|| all().find(|it| it.phase == Phase::Failed))
    }
}

/// The table and the events that it has not seen.
#[derive(Default)]
struct State {
    events: Option<Receiver<Event>>,
    table: Table,
}

impl State {
    /// Takes in what happened since; `false` when something was missed.
    fn catch_up(&mut self) -> bool {
        let Some(events) = &mut self.events else { return false };
        loop {
            match events.try_recv() {
                Ok(event) => self.table.apply(&event),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return false,
            }
        }
    }
}

/// Finds sandboxes.
pub struct Index {
    driver: Arc<dyn Driver>,
    state: Mutex<State>,
}

impl Index {
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self { driver, state: Mutex::default() }
    }

    /// One sandbox.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Option<Arc<Known>>, DriverError> {
        let known = self.current().await?.table.by_id.get(id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        // A driver may know of one before it tells everybody.
        match self.driver.get(id).await {
            Ok(sandbox) => Ok(Some(Arc::new(Known::of(&sandbox)))),
            Err(DriverError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there was such a sandbox, as far as everybody may know and this process remembers.
    pub async fn was_there(&self, id: &SandboxId) -> Result<bool, DriverError> {
        Ok(self.current().await?.table.gone.ids.contains(id))
    }

    /// The primary sandbox of the user with this label.
    pub async fn primary(&self, label: &str) -> Result<Option<Arc<Known>>, DriverError> {
        Ok(self.current().await?.table.primary(label).cloned())
    }

    async fn current(&self) -> Result<MutexGuard<'_, State>, DriverError> {
        let mut state = self.state.lock().await;
        if !state.catch_up() {
            let mut rebuilt = self.rebuilt().await?;
            rebuilt.table.replace(std::mem::take(&mut state.table));
            *state = rebuilt;
        }
        Ok(state)
    }

    async fn rebuilt(&self) -> Result<State, DriverError> {
        // First of all: what happens while the list is read is then in both, and not in neither.
        let events = Some(self.driver.subscribe());
        let mut table = Table::default();
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        loop {
            let page = self.driver.list(&query).await?;
            page.items.iter().for_each(|sandbox| table.put(sandbox));
            query.cursor = page.next;
            if query.cursor.is_none() {
                let mut state = State { events, table };
                // If this misses something, the next to ask begins anew.
                state.catch_up();
                return Ok(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::{
        driver::no_progress,
        sandbox::Reason,
        testing::{FakeDriver, sandbox},
    };

    fn owned(n: u8, created: i64) -> Sandbox {
        let mut it = sandbox(n);
        it.spec.owner = Some("alice".into());
        it.spec.created_at = Timestamp::from_second(created).unwrap();
        it
    }

    async fn primary(index: &Index) -> Option<SandboxId> {
        index.primary("alice").await.unwrap().map(|known| known.id.clone())
    }

    fn why() -> Reason {
        Reason::new("requested", "a test wants it")
    }

    #[tokio::test]
    async fn the_oldest_usable_sandbox_of_a_user_is_the_primary_one() {
        let driver = Arc::new(FakeDriver::default());
        let index = Index::new(driver.clone());
        assert_eq!(primary(&index).await, None);
        for (n, created) in [(1, 20), (2, 10), (3, 30)] {
            driver.create(owned(n, created), no_progress()).await.unwrap();
        }
        let id = |n| Some(sandbox(n).id().clone());
        assert_eq!(primary(&index).await, id(2));
        driver.stop(sandbox(2).id(), why()).await.unwrap();
        assert_eq!(primary(&index).await, id(2), "a resting one can be woken");
        driver.delete(sandbox(2).id(), why()).await.unwrap();
        assert_eq!(primary(&index).await, id(1));
        assert!(index.sandbox(sandbox(2).id()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_failed_one_is_primary_only_when_there_is_no_other() {
        let driver = Arc::new(FakeDriver::default());
        let index = Index::new(driver.clone());
        driver.fail_next("create", DriverError::Internal("broken".into()));
        driver.create(owned(1, 10), no_progress()).await.unwrap_err();
        assert_eq!(primary(&index).await, Some(sandbox(1).id().clone()));
        driver.create(owned(2, 20), no_progress()).await.unwrap();
        assert_eq!(primary(&index).await, Some(sandbox(2).id().clone()));
    }

    #[tokio::test]
    async fn a_receiver_that_lost_events_begins_anew() {
        let driver = Arc::new(FakeDriver::default());
        let index = Index::new(driver.clone());
        driver.create(owned(1, 10), no_progress()).await.unwrap();
        assert!(primary(&index).await.is_some());
        for _ in 0..2000 {
            driver.pause(sandbox(1).id(), why()).await.unwrap();
            driver.resume(sandbox(1).id()).await.unwrap();
        }
        driver.delete(sandbox(1).id(), why()).await.unwrap();
        driver.create(owned(2, 20), no_progress()).await.unwrap();
        assert_eq!(primary(&index).await, Some(sandbox(2).id().clone()));
    }

    #[tokio::test]
    async fn what_everybody_saw_is_remembered_when_it_is_gone() {
        let driver = Arc::new(FakeDriver::default());
        let index = Index::new(driver.clone());
        let public = |mut it: Sandbox| {
            it.spec.public = true;
            it
        };
        let all = [public(sandbox(1)), sandbox(2), public(owned(3, 10)), public(sandbox(4))];
        for it in &all {
            driver.create(it.clone(), no_progress()).await.unwrap();
        }
        assert!(!index.was_there(all[0].id()).await.unwrap(), "it is there");
        for it in &all[..3] {
            driver.delete(it.id(), why()).await.unwrap();
        }
        // The last goes while nobody listens, and is missing in the next list.
        drop(index.current().await.unwrap());
        driver.delete(all[3].id(), why()).await.unwrap();
        index.state.lock().await.events = None;
        for (n, known) in [true, false, false, true].into_iter().enumerate() {
            assert_eq!(index.was_there(all[n].id()).await.unwrap(), known, "{n}");
        }
    }

    #[test]
    fn no_more_is_remembered_than_fits() {
        let mut gone = Gone::default();
        let mut known = Known::of(&sandbox(1));
        known.public = true;
        for n in 0..=REMEMBERED {
            let mut bytes = [0; 19];
            (bytes[0], bytes[1], bytes[2]) = ((n % 32) as u8, (n / 32 % 32) as u8, (n / 1024) as u8);
            known.id = SandboxId::from_entropy(bytes);
            gone.remember(&known);
            gone.remember(&known);
        }
        assert_eq!((gone.ids.len(), gone.oldest_first.len()), (REMEMBERED, REMEMBERED));
        assert!(!gone.ids.contains(&SandboxId::from_entropy([0; 19])) && gone.ids.contains(&known.id));
    }

    #[tokio::test]
    async fn a_list_that_fails_is_told_and_tried_again() {
        let driver = Arc::new(FakeDriver::default());
        let index = Index::new(driver.clone());
        driver.create(owned(1, 10), no_progress()).await.unwrap();
        driver.fail_next("list", DriverError::Internal("broken".into()));
        assert!(index.primary("alice").await.is_err());
        assert!(primary(&index).await.is_some());
    }

    #[tokio::test]
    async fn more_than_a_page_is_read() {
        let driver = Arc::new(FakeDriver::default());
        for n in 0..u16::try_from(PAGE).unwrap() + 5 {
            let mut it = owned(0, i64::from(n));
            let [high, low] = n.to_be_bytes();
            let mut bytes = [0; 19];
            (bytes[0], bytes[1], bytes[2], bytes[3]) = (high, low / 36, low % 36, 0);
            it.spec.id = SandboxId::from_entropy(bytes);
            driver.create(it, no_progress()).await.unwrap();
        }
        let index = Index::new(driver);
        let oldest = index.primary("alice").await.unwrap().unwrap();
        assert_eq!(oldest.created_at, Timestamp::from_second(0).unwrap());
    }
}
