//! All sandboxes of the cluster as they were seen last, by id and by age. It does no I/O and waits for nothing: others feed
//! it from the watch and from the answers to their own writes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::watch;

use atoll_core::{
    driver::{Event, ListQuery, Page, Position},
    id::SandboxId,
    phase::Phase,
};
use jiff::Timestamp;

use super::seen::{Place, Seen};

/// A sandbox, and every change of it; `None` when it is gone.
pub type Changes = watch::Receiver<Option<Arc<Seen>>>;

/// All of them.
#[derive(Default)]
pub struct Cache(RwLock<Tables>);

#[derive(Default)]
struct Tables {
    places: HashMap<Place, Arc<Seen>>,
    ids: HashMap<SandboxId, Slot>,
    lists: HashMap<Scope, BTreeMap<Position, Arc<Seen>>>,
    /// What was written up to this version, the watch has shown.
    shown_to: u64,
    relist: Option<Relist>,
}

/// The objects that claim one id. Nobody can choose an id in another's namespace that is there already: the oldest has it.
struct Slot {
    claims: BTreeMap<(Timestamp, String), Arc<Seen>>,
    shown: watch::Sender<Option<Arc<Seen>>>,
}

/// A list under way, after which what it did not show is gone.
#[derive(Default)]
struct Relist {
    listed: HashSet<Place>,
    /// Our own writes meanwhile, which the list may have been too early for.
    written: HashSet<Place>,
    newest: u64,
}

/// Whose sandboxes a list is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    All,
    Tenant(String),
    Owner(String, String),
}

impl Scope {
    /// The lists that a sandbox stands in.
    fn of(seen: &Seen) -> Vec<Self> {
        let spec = &seen.sandbox.spec;
        let owner = spec.owner.clone().map(|owner| Self::Owner(spec.tenant.clone(), owner));
        [Self::All, Self::Tenant(spec.tenant.clone())].into_iter().chain(owner).collect()
    }

    /// The shortest list that has everything that is asked for.
    fn asked(query: &ListQuery) -> Self {
        match (query.tenant.clone(), query.owner.clone()) {
            (None, _) => Self::All,
            (Some(tenant), None) => Self::Tenant(tenant),
            (Some(tenant), Some(owner)) => Self::Owner(tenant, owner),
        }
    }
}

impl Cache {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One sandbox.
    pub fn get(&self, id: &SandboxId) -> Option<Arc<Seen>> {
        self.read().ids.get(id)?.shown.borrow().clone()
    }

    /// One sandbox and what becomes of it.
    pub fn changes(&self, id: &SandboxId) -> Option<Changes> {
        Some(self.read().ids.get(id)?.shown.subscribe())
    }

    /// A page of those that match. Its cost follows from the page and what is skipped, not from the number of all.
    pub fn list(&self, query: &ListQuery) -> Page {
        let tables = self.read();
        let Some(list) = tables.lists.get(&Scope::asked(query)) else {
            return Page { items: Vec::new(), next: None };
        };
        let after = query.cursor.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching =
            list.range((after, Bound::Unbounded)).filter(|(_, seen)| query.matches(&seen.sandbox));
        let items: Vec<_> =
            matching.by_ref().take(query.limit).map(|(_, seen)| seen.sandbox.clone()).collect();
        let more = matching.next().is_some();
        let next = items.last().filter(|_| more).map(Position::of);
        Page { items, next }
    }

    /// The watch showed an object as it is now.
    pub fn saw(&self, seen: Seen) -> Vec<Event> {
        let mut tables = self.write();
        tables.shown_to = tables.shown_to.max(seen.version);
        tables.put(seen)
    }

    /// The watch showed that an object is gone.
    pub fn saw_gone(&self, place: &Place, uid: &str, version: u64) -> Vec<Event> {
        let mut tables = self.write();
        tables.shown_to = tables.shown_to.max(version);
        tables.remove(place, uid)
    }

    /// A request of ours was answered with this object. What the watch has shown already is not shown again: it may be
    /// gone since.
    pub fn wrote(&self, seen: Seen) -> Vec<Event> {
        let mut tables = self.write();
        if seen.version <= tables.shown_to {
            return Vec::new();
        }
        if let Some(relist) = &mut tables.relist {
            relist.written.insert(seen.place.clone());
        }
        tables.put(seen)
    }

    /// Somebody looked, and it is gone.
    pub fn gone(&self, place: &Place, uid: &str) -> Vec<Event> {
        self.write().remove(place, uid)
    }

    /// Everything is about to be listed anew.
    pub fn begin_list(&self) {
        self.write().relist = Some(Relist::default());
    }

    /// One of the list.
    pub fn listed(&self, seen: Seen) -> Vec<Event> {
        let mut tables = self.write();
        if let Some(relist) = &mut tables.relist {
            relist.listed.insert(seen.place.clone());
            relist.newest = relist.newest.max(seen.version);
        }
        tables.put(seen)
    }

    /// The list is complete: what was not on it is gone. Says which of our own writes it did not show, which were made
    /// while it was: those are to be looked at.
    pub fn end_list(&self) -> (Vec<Event>, Vec<Arc<Seen>>) {
        let mut tables = self.write();
        let relist = tables.relist.take().unwrap_or_default();
        tables.shown_to = tables.shown_to.max(relist.newest);
        let missing: Vec<_> =
            tables.places.values().filter(|it| !relist.listed.contains(&it.place)).cloned().collect();
        let (doubtful, gone): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|it| relist.written.contains(&it.place));
        let events = gone.iter().flat_map(|it| tables.remove(&it.place, &it.uid)).collect();
        (events, doubtful)
    }
}

impl Tables {
    fn put(&mut self, seen: Seen) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(before) = self.places.get(&seen.place).cloned() {
            if before.version >= seen.version {
                return events;
            }
            if before.uid != seen.uid {
                events = self.remove(&before.place, &before.uid);
            }
        }
        let seen = Arc::new(seen);
        self.places.insert(seen.place.clone(), seen.clone());
        let id = seen.id().clone();
        let slot = self.ids.entry(id.clone()).or_insert_with(Slot::new);
        slot.claims.insert((seen.born, seen.uid.clone()), seen);
        events.extend(self.settle(&id));
        events
    }

    fn remove(&mut self, place: &Place, uid: &str) -> Vec<Event> {
        let Some(seen) = self.places.get(place).filter(|it| it.uid == uid).cloned() else {
            return Vec::new();
        };
        self.places.remove(place);
        if let Some(slot) = self.ids.get_mut(seen.id()) {
            slot.claims.remove(&(seen.born, seen.uid.clone()));
        }
        self.settle(seen.id()).into_iter().collect()
    }

    /// Shows the one that has an id, after its claims have changed.
    fn settle(&mut self, id: &SandboxId) -> Option<Event> {
        let slot = self.ids.get_mut(id)?;
        let (before, now) = (slot.shown.borrow().clone(), slot.claims.values().next().cloned());
        slot.shown.send_replace(now.clone());
        if now.is_none() {
            self.ids.remove(id);
        }
        if let Some(before) = &before {
            self.unlist(before);
        }
        if let Some(now) = &now {
            self.enlist(now);
        }
        event(before.as_deref(), now.as_deref())
    }

    fn enlist(&mut self, seen: &Arc<Seen>) {
        for scope in Scope::of(seen) {
            self.lists.entry(scope).or_default().insert(Position::of(&seen.sandbox), seen.clone());
        }
    }

    fn unlist(&mut self, seen: &Seen) {
        for scope in Scope::of(seen) {
            if let Some(list) = self.lists.get_mut(&scope) {
                list.remove(&Position::of(&seen.sandbox));
                if list.is_empty() {
                    self.lists.remove(&scope);
                }
            }
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self { claims: BTreeMap::new(), shown: watch::Sender::new(None) }
    }
}

/// What is to be told of a change.
fn event(before: Option<&Seen>, now: Option<&Seen>) -> Option<Event> {
    match (before, now) {
        (Some(before), None) => {
            let mut sandbox = before.sandbox.clone();
            sandbox.phase = Phase::Terminating;
            Some(Event { sandbox: Arc::new(sandbox), gone: true })
        }
        (before, Some(now)) if before.map(Seen::phase) != Some(now.phase()) => {
            Some(Event { sandbox: Arc::new(now.sandbox.clone()), gone: false })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::seen::tests::seen, *};
    use crate::crd;
    use atoll_core::testing::sandbox;

    const RUNNING: Option<crd::Phase> = Some(crd::Phase::Running);

    fn phases(events: &[Event]) -> Vec<(Phase, bool)> {
        events.iter().map(|it| (it.sandbox.phase, it.gone)).collect()
    }

    fn place(seen: &Seen) -> (Place, String) {
        (seen.place.clone(), seen.uid.clone())
    }

    #[test]
    fn changes_of_phase_are_told_and_older_versions_change_nothing() {
        let cache = Cache::default();
        assert_eq!(phases(&cache.saw(seen("a", 1, 5, None))), [(Phase::Creating, false)]);
        let changes = cache.changes(sandbox(1).id()).unwrap();
        assert_eq!(phases(&cache.wrote(seen("a", 1, 8, RUNNING))), [(Phase::Running, false)]);
        assert!(cache.saw(seen("a", 1, 7, None)).is_empty(), "an echo from before our own write");
        assert!(cache.saw(seen("a", 1, 8, RUNNING)).is_empty());
        assert_eq!(changes.borrow().as_ref().unwrap().phase(), Phase::Running);
        let (place, uid) = place(&seen("a", 1, 0, None));
        assert_eq!(phases(&cache.saw_gone(&place, &uid, 9)), [(Phase::Terminating, true)]);
        assert!(changes.borrow().is_none() && cache.get(sandbox(1).id()).is_none());
    }

    #[test]
    fn a_late_answer_brings_nothing_back() {
        let cache = Cache::default();
        cache.saw(seen("a", 1, 5, None));
        let (place, uid) = place(&seen("a", 1, 0, None));
        cache.saw_gone(&place, &uid, 9);
        assert!(cache.wrote(seen("a", 1, 8, RUNNING)).is_empty());
        assert!(cache.get(sandbox(1).id()).is_none());
    }

    #[test]
    fn the_older_of_two_has_the_id_and_the_other_follows() {
        let cache = Cache::default();
        let mut thief = seen("evil", 1, 6, RUNNING);
        thief.born = Timestamp::from_second(1000).unwrap();
        cache.saw(thief);
        assert_eq!(cache.get(sandbox(1).id()).unwrap().place.namespace, "tenant-evil");
        cache.saw(seen("a", 1, 5, RUNNING));
        assert_eq!(cache.get(sandbox(1).id()).unwrap().place.namespace, "tenant-a");
        let all = ListQuery { limit: 9, ..ListQuery::default() };
        assert_eq!(cache.list(&all).items.len(), 1);
        let (place, uid) = place(&seen("a", 1, 0, None));
        cache.saw_gone(&place, &uid, 9);
        assert_eq!(cache.get(sandbox(1).id()).unwrap().place.namespace, "tenant-evil");
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_show() {
        let cache = Cache::default();
        for n in 1..4 {
            cache.saw(seen("a", n, n.into(), RUNNING));
        }
        cache.begin_list();
        assert!(cache.listed(seen("a", 1, 1, RUNNING)).is_empty());
        cache.wrote(seen("a", 9, 50, None));
        let (events, doubtful) = cache.end_list();
        assert_eq!(events.len(), 2);
        assert_eq!(doubtful.len(), 1, "written while the list was made");
        assert!(cache.get(sandbox(1).id()).is_some() && cache.get(sandbox(9).id()).is_some());
        let (place, uid) = place(&seen("a", 9, 0, None));
        assert_eq!(phases(&cache.gone(&place, &uid)), [(Phase::Terminating, true)]);
    }

    #[test]
    fn a_new_object_of_the_same_name_is_another_sandbox() {
        let cache = Cache::default();
        cache.saw(seen("a", 1, 5, RUNNING));
        let mut second = seen("a", 1, 9, None);
        second.uid = "other".into();
        assert_eq!(phases(&cache.saw(second)), [(Phase::Terminating, true), (Phase::Creating, false)]);
        let (place, uid) = place(&seen("a", 1, 0, None));
        assert!(cache.saw_gone(&place, &uid, 10).is_empty(), "the first one's end is not the second's");
        assert!(cache.get(sandbox(1).id()).is_some());
    }

    #[test]
    fn lists_are_by_tenant_and_owner_and_newest_first() {
        let cache = Cache::default();
        for n in 0..10 {
            let mut it = seen(if n % 2 == 0 { "a" } else { "b" }, n, u64::from(n) + 1, RUNNING);
            it.sandbox.spec.created_at = Timestamp::from_second(n.into()).unwrap();
            it.sandbox.spec.owner = (n == 4).then(|| "alice".to_owned());
            cache.saw(it);
        }
        let mut query = ListQuery { tenant: Some("a".into()), limit: 2, ..ListQuery::default() };
        let mut times = Vec::new();
        loop {
            let page = cache.list(&query);
            times.extend(page.items.iter().map(|it| it.spec.created_at.as_second()));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(times, [8, 6, 4, 2, 0]);
        let hers = ListQuery {
            tenant: Some("a".into()),
            owner: Some("alice".into()),
            limit: 5,
            ..ListQuery::default()
        };
        assert_eq!(cache.list(&hers).items.len(), 1);
        let everybody = ListQuery { owner: Some("alice".into()), limit: 5, ..ListQuery::default() };
        assert_eq!(cache.list(&everybody).items.len(), 1);
    }
}
