//! Lists of sandboxes, in pages and in either order.

use atoll_core::{
    driver::{ListQuery, Position},
    phase::Phase,
    sandbox::Sandbox,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{AppendHeaders, IntoResponse, Response},
};
use jiff::Timestamp;
use std::{collections::BTreeMap, sync::Arc};

use super::{shape::E2bError, snapshots::template_id, types::ListedSandbox};
use crate::{
    http::{error::Answer, extract::Query, page},
    services::{Services, access::Caller, builds::LABEL, error::ServiceError},
};

/// Carries the token of the next page.
pub const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Most sandboxes of a page, and how many it has where nobody says.
const PAGE: usize = 100;
const RUNNING: [Phase; 2] = [Phase::Creating, Phase::Running];
const PAUSED: [Phase; 2] = [Phase::Paused, Phase::Stopped];

/// Lists the sandboxes that run.
#[utoipa::path(get, path = "/sandboxes", operation_id = "e2b_list_sandboxes", tag = "e2b",
    params(("metadata" = Option<String>, Query, description = "`key=value&…`, encoded once more: all must match")),
    responses((status = 200, body = [ListedSandbox]), (status = 400, body = E2bError), (status = 401, body = E2bError)))]
pub async fn list_v1(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Json<Vec<ListedSandbox>>> {
    let mut ask = Asked::read(&caller, &Query::default())?;
    ask.among.metadata = metadata(query.get("metadata"));
    ask.among.phases = RUNNING.to_vec();
    let all = services.first(&caller, ask.among, usize::MAX, |it| !works_for_build(it)).await?;
    Ok(Json(all.into_iter().map(ListedSandbox::of).collect()))
}

/// Lists sandboxes, newest first unless asked otherwise, page by page.
#[utoipa::path(get, path = "/v2/sandboxes", operation_id = "e2b_list_sandboxes_v2", tag = "e2b",
    params(("metadata" = Option<String>, Query, description = "`key=value&…`, encoded once more: all must match"),
        ("state" = Option<Vec<String>>, Query, description = "`running`, `paused`, or both"),
        ("order" = Option<String>, Query, description = "`asc` or `desc`, by age"),
        ("startedAfter" = Option<String>, Query, description = "Only those that were made later"),
        ("template" = Option<String>, Query, description = "Only those of this template"),
        ("limit" = Option<usize>, Query, description = "Items of a page: 1 to 100"),
        ("nextToken" = Option<String>, Query, description = "What the page before said in `X-Next-Token`")),
    responses((status = 200, body = [ListedSandbox]), (status = 400, body = E2bError), (status = 401, body = E2bError)))]
pub async fn list_v2(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Response> {
    let ask = Asked::read(&caller, &query)?;
    let (among, wanted) = ask.reads();
    let (items, next) = ask.page(services.first(&caller, among, wanted, |it| ask.wants(it)).await?);
    let items: Vec<ListedSandbox> = items.into_iter().map(ListedSandbox::of).collect();
    let next = next.and_then(|next| HeaderValue::from_str(&page::token(&next)).ok());
    Ok((AppendHeaders(next.map(|next| (NEXT_TOKEN, next))), Json(items)).into_response())
}

/// What is asked for.
struct Asked {
    among: ListQuery,
    oldest_first: bool,
    started_after: Option<Timestamp>,
    template: Option<String>,
    limit: usize,
    after: Option<Position>,
}

impl Asked {
    fn read(caller: &Caller, query: &Query) -> Result<Self, ServiceError> {
        let limit = query.number("limit")?.unwrap_or(PAGE);
        if !(1..=PAGE).contains(&limit) {
            return Err(ServiceError::invalid("limit", format!("is 1 to {PAGE}")));
        }
        let among = ListQuery {
            tenant: Some(caller.tenant.clone()),
            metadata: metadata(query.get("metadata")),
            phases: phases(query)?,
            ..ListQuery::default()
        };
        Ok(Self {
            among,
            oldest_first: oldest_first(query.get("order"))?,
            started_after: query.get("startedAfter").map(moment).transpose()?,
            template: query.get("template").map(str::to_owned),
            limit,
            after: page::position(query, "nextToken")?,
        })
    }

    /// What is to be read for the page, and how many at most: lists are kept newest first, the other way round all is read.
    fn reads(&self) -> (ListQuery, usize) {
        match self.oldest_first {
            true => (self.among.clone(), usize::MAX),
            false => (ListQuery { cursor: self.after.clone(), ..self.among.clone() }, self.limit + 1),
        }
    }

    /// The page that was asked for, of all that match, newest first; and where to go on.
    fn page(&self, mut all: Vec<Sandbox>) -> (Vec<Sandbox>, Option<Position>) {
        all.retain(|it| self.wants(it));
        if self.oldest_first {
            all.reverse();
        }
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        let next = all.last().filter(|_| more).map(Position::of);
        (all, next)
    }

    fn wants(&self, it: &Sandbox) -> bool {
        let beyond = |after: &Position| match self.oldest_first {
            true => Position::of(it) < *after,
            false => Position::of(it) > *after,
        };
        let of =
            |name: &String| it.spec.template.as_ref() == Some(name) || template_id(&it.spec.image) == name;
        !works_for_build(it)
            && self.after.as_ref().is_none_or(beyond)
            && self.started_after.is_none_or(|at| it.spec.created_at > at)
            && self.template.as_ref().is_none_or(of)
    }
}

/// Sandboxes in which templates are built are nobody's.
fn works_for_build(it: &Sandbox) -> bool {
    it.spec.labels.contains_key(LABEL)
}

fn phases(query: &Query) -> Result<Vec<Phase>, ServiceError> {
    let mut phases = Vec::new();
    for state in query.all("state").flat_map(|states| states.split(',')).filter(|state| !state.is_empty()) {
        match state {
            "running" => phases.extend(RUNNING),
            "paused" => phases.extend(PAUSED),
            other => {
                return Err(ServiceError::invalid(
                    "state",
                    format!("{other:?} is neither running nor paused"),
                ));
            }
        }
    }
    if phases.is_empty() {
        phases.extend(RUNNING.iter().chain(&PAUSED));
    }
    Ok(phases)
}

fn oldest_first(order: Option<&str>) -> Result<bool, ServiceError> {
    match order {
        None | Some("desc") => Ok(false),
        Some("asc") => Ok(true),
        Some(other) => Err(ServiceError::invalid("order", format!("{other:?} is neither asc nor desc"))),
    }
}

fn moment(text: &str) -> Result<Timestamp, ServiceError> {
    let refuse = |_| ServiceError::invalid("startedAfter", format!("{text:?} is no time as in RFC 3339"));
    text.parse().map_err(refuse)
}

/// A query string in a parameter, whose keys and values are encoded once more.
fn metadata(text: Option<&str>) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        // What follows an `=` is taken as it is; there is none before it.
        let pair = format!("={}", text.replace('+', "%2B"));
        form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
    pairs.map(|(key, value)| (decode(&key), decode(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::{key::Role, testing::sandbox};

    fn caller() -> Caller {
        Caller { key: "k".into(), tenant: "default".into(), role: Role::Member }
    }

    fn asked(query: &str) -> Result<Asked, ServiceError> {
        Asked::read(&caller(), &Query::read(query))
    }

    fn made(n: u8) -> Sandbox {
        let mut made = sandbox(n);
        made.spec.created_at = Timestamp::from_second(n.into()).unwrap();
        made
    }

    fn pages(query: &str) -> Vec<Vec<i64>> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let ask = asked(&format!("{query}&nextToken={token}")).unwrap();
            let (items, next) = ask.page((1..=5).rev().map(made).collect());
            pages.push(items.iter().map(|it| it.spec.created_at.as_second()).collect());
            let Some(next) = next else { return pages };
            token = hex::encode(next.to_string());
        }
    }

    #[test]
    fn every_sandbox_is_on_one_page() {
        assert_eq!(pages("limit=2"), [vec![5, 4], vec![3, 2], vec![1]]);
        assert_eq!(pages("limit=2&order=asc"), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(pages("startedAfter=1970-01-01T00:00:03Z&order=asc"), [vec![4, 5]]);
        assert_eq!(pages("template=base&limit=5"), [vec![5, 4, 3, 2, 1]]);
        assert_eq!(pages("template=other"), [Vec::<i64>::new()]);
    }

    #[test]
    fn metadata_is_encoded_twice() {
        let found = metadata(Some("a%2520b=c%2526d%253D&e=%25C3%25A9&plus=1%2B1"));
        let expected = [("a b", "c&d="), ("e", "é"), ("plus", "1+1")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("order=up", "order"),
            ("state=running,dead", "state"),
            ("startedAfter=yesterday", "startedAfter"),
            ("nextToken=zz", "nextToken"),
        ] {
            let refused = asked(query).map(drop).unwrap_err();
            assert_eq!(refused.tell().field.as_deref(), Some(field), "{query}");
        }
    }
}
