//! `filesystem.Filesystem`: files as the E2B SDK knows them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_proto::agent::filesystem::watch_dir_response::{KeepAlive, StartEvent};
use atoll_proto::agent::filesystem::*;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;

use super::{basic_user, keepalive};
use crate::app::{App, random_hex};
use crate::errors::ApiError;
use crate::users::{Account, Users};
use crate::watchers::{self, Change, How, Kind, Watch};
use crate::{entries, paths};

/// The service.
pub struct FilesystemService(pub Arc<App>);

impl FilesystemService {
    fn account(&self, context: &RequestContext) -> Result<Account, ApiError> {
        self.0.account(basic_user(context.headers()).as_deref())
    }

    /// Does something with a path as the user of the request.
    async fn with_path<T: Send + 'static>(
        &self,
        context: &RequestContext,
        path: &str,
        work: impl FnOnce(&str) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let account = self.account(context)?;
        let path = paths::resolve(path, &account.home)?;
        let shown = path.clone();
        self.0.workers.run(&account, move || work(&path)).await.map_err(ApiError::file(shown))
    }

    async fn watch(&self, context: &RequestContext, path: &str, how: How) -> Result<Watch, ApiError> {
        let prepared = self.with_path(context, path, move |path| watchers::prepare(path, how)).await?;
        Watch::new(prepared).map_err(ApiError::file(path))
    }
}

impl Filesystem for FilesystemService {
    async fn stat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let entry =
            self.with_path(&context, request.path, |path| entries::stat(path, &Users::read())).await?;
        Response::ok(StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let make =
            |path: &str| entries::make_directory(path).and_then(|()| entries::stat(path, &Users::read()));
        let entry = self.with_path(&context, request.path, make).await?;
        Response::ok(MakeDirResponse { entry: entry.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let account = self.account(&context)?;
        let destination = paths::resolve(request.destination, &account.home).map_err(ApiError::from)?;
        let rename = move |source: &str| {
            entries::rename(source, &destination).and_then(|()| entries::stat(&destination, &Users::read()))
        };
        let entry = self.with_path(&context, request.source, rename).await?;
        Response::ok(MoveResponse { entry: entry.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let depth = request.depth;
        let list = move |path: &str| entries::list(path, depth, &Users::read());
        let entries = self.with_path(&context, request.path, list).await?;
        Response::ok(ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        if paths::resolve(request.path, "/").map_err(ApiError::from)? == "/" {
            return Err(ApiError::BadRequest("the root directory cannot be removed".into()).into());
        }
        self.with_path(&context, request.path, entries::remove).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let how = How { recursive: request.recursive, on_network: request.allow_network_mounts };
        let watch = self.watch(&context, request.path, how).await?;
        let entry_for = request.include_entry.then_some(self.account(&context)?);
        let following =
            Following { app: Arc::clone(&self.0), watch, entry_for, keepalive: keepalive(&context) };
        let start = WatchDirResponse { event: Some(StartEvent::default().into()), ..Default::default() };
        let changes = futures::stream::unfold(Some(following), |following| async move {
            let mut following = following?;
            match following.next().await {
                Ok(response) => Some((Ok(response), Some(following))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Response::stream_ok(futures::stream::iter([Ok(start)]).chain(changes))
    }

    async fn create_watcher(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let how = How { recursive: request.recursive, on_network: request.allow_network_mounts };
        let watch = self.watch(&context, request.path, how).await?;
        let watcher_id = random_hex();
        if !self.0.watchers.insert(watcher_id.clone(), watch, request.include_entry) {
            return Err(ApiError::Busy("there are too many watchers".into()).into());
        }
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let seen = self.0.watchers.take(request.watcher_id).ok_or_else(|| no_watcher(request.watcher_id))?;
        let seen = seen.map_err(ApiError::file(request.watcher_id))?;
        let entry_for = seen.include_entry.then_some(self.account(&context)?);
        let mut events = Vec::new();
        for change in seen.changes {
            events.push(event(&self.0, &seen.root, change, entry_for.as_ref()).await);
        }
        Response::ok(GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        if !self.0.watchers.remove(request.watcher_id) {
            return Err(no_watcher(request.watcher_id).into());
        }
        Response::ok(RemoveWatcherResponse::default())
    }
}

fn no_watcher(id: &str) -> ApiError {
    ApiError::NotFound(format!("watcher {id} not found"))
}

/// A watch that is streamed.
struct Following {
    app: Arc<App>,
    watch: Watch,
    entry_for: Option<Account>,
    keepalive: Duration,
}

impl Following {
    async fn next(&mut self) -> Result<WatchDirResponse, ApiError> {
        let event = tokio::select! {
            change = self.watch.next() => {
                let root = self.watch.root().to_owned();
                let change = change.map_err(ApiError::file(root.to_string_lossy()))?;
                event(&self.app, &root, change, self.entry_for.as_ref()).await.into()
            }
            () = tokio::time::sleep(self.keepalive) => KeepAlive::default().into(),
        };
        Ok(WatchDirResponse { event: Some(event), ..Default::default() })
    }
}

/// The entry is there only where it still exists.
async fn event(app: &App, root: &Path, change: Change, entry_for: Option<&Account>) -> FilesystemEvent {
    let gone = matches!(change.kind, Kind::Remove | Kind::Rename);
    let entry = match entry_for {
        Some(account) if !gone => {
            let path = root.join(&change.name).to_string_lossy().into_owned();
            app.workers.run(account, move || entries::stat(&path, &Users::read())).await.ok()
        }
        _ => None,
    };
    let kind = match change.kind {
        Kind::Create => EventType::EVENT_TYPE_CREATE,
        Kind::Write => EventType::EVENT_TYPE_WRITE,
        Kind::Remove => EventType::EVENT_TYPE_REMOVE,
        Kind::Rename => EventType::EVENT_TYPE_RENAME,
        Kind::Chmod => EventType::EVENT_TYPE_CHMOD,
    };
    FilesystemEvent { name: change.name, r#type: kind.into(), entry: entry.into(), ..Default::default() }
}
