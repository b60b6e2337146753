//! Snapshots of sandboxes' files, and forks.

use atoll_proto::api::{Fork, ForkList, ForkSandbox, NewSnapshot, Snapshot, SnapshotList};
use futures::{Stream, TryStreamExt, stream};

use crate::{Client, Error, Sandbox};

/// Which snapshots to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ListSnapshots {
    /// Only those taken of this sandbox.
    pub sandbox: Option<String>,
    /// Only those with this name; one without a tag stands for all tags.
    pub name: Option<String>,
    /// Snapshots per page; the server's default when absent.
    pub page_size: Option<usize>,
}

impl Sandbox {
    /// Keeps its files as they are now, without its volumes, memory and processes. `name` may be `name` or `name:tag`.
    ///
    /// # Errors
    /// It neither runs nor rests, or there is no room.
    pub async fn snapshot(&self, name: Option<&str>) -> Result<Snapshot, Error> {
        let request = NewSnapshot { name: name.map(str::to_owned) };
        self.client.post(self.client.api(&["sandboxes", self.id(), "snapshots"]), &request).await
    }

    /// Makes sandboxes like this one, which begin with its files as they are now. Each succeeds or fails by itself.
    ///
    /// # Errors
    /// It cannot be snapshotted, or has volumes.
    pub async fn fork(&self, request: &ForkSandbox) -> Result<Vec<Fork>, Error> {
        let list: ForkList =
            self.client.post(self.client.api(&["sandboxes", self.id(), "fork"]), request).await?;
        Ok(list.items)
    }
}

impl Client {
    /// One snapshot, by its identifier.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub async fn snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        self.get(self.api(&["snapshots", id])).await
    }

    /// Every snapshot that matches, newest first; pages are fetched as they are needed.
    pub fn snapshots(
        &self,
        query: ListSnapshots,
    ) -> impl Stream<Item = Result<Snapshot, Error>> + Send + Unpin + use<> {
        let client = self.clone();
        let pages = stream::try_unfold(Some(String::new()), move |cursor| {
            let (client, query) = (client.clone(), query.clone());
            async move {
                let Some(cursor) = cursor else { return Ok(None) };
                let page = page(&client, &query, &cursor).await?;
                Ok::<_, Error>(Some((page.items, page.next_cursor)))
            }
        });
        Box::pin(pages.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten())
    }

    /// Removes a snapshot. Sandboxes that were made from it keep their files.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub async fn remove_snapshot(&self, id: &str) -> Result<(), Error> {
        self.delete(self.api(&["snapshots", id])).await
    }
}

async fn page(client: &Client, query: &ListSnapshots, cursor: &str) -> Result<SnapshotList, Error> {
    let mut url = client.api(&["snapshots"]);
    let limit = query.page_size.map(|limit| limit.to_string());
    let given = [
        ("sandbox", query.sandbox.as_deref()),
        ("name", query.name.as_deref()),
        ("limit", limit.as_deref()),
        ("cursor", Some(cursor).filter(|cursor| !cursor.is_empty())),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    client.get(url).await
}
