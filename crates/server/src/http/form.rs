//! Uploads as forms, as older clients send them: `file` and `path` in any order. A file whose path is not known yet goes
//! to a hidden place inside the sandbox first, unless it is small; nothing of it stays there.

use atoll_proto::api::{ErrorBody, MoveFile, Uploaded};
use axum::{
    Json,
    body::Bytes,
    extract::{
        Multipart, Path, State,
        multipart::{Field, MultipartError, MultipartRejection},
    },
};
use futures::{StreamExt, stream};
use std::sync::Arc;

use super::{error::Answer, extract::Query};
use crate::services::{
    Services,
    access::Caller,
    error::ServiceError,
    files::{Place, Shape},
};

/// A file of at most so many bytes waits for its path in memory.
const SMALL: usize = 256 << 10;
/// Longest text of a part that is not the file.
const TEXT: usize = 8 << 10;

/// Writes a file that comes as the part `file` of a form; the part or query `path` says where to.
///
/// A path that ends with `/` is a directory.
#[utoipa::path(post, path = "/sandboxes/{id}/files", operation_id = "upload_form", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("path" = Option<String>, Query, description = "Path, when the form has none"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    request_body(content = Object, content_type = "multipart/form-data"),
    responses((status = 200, body = Uploaded), (status = 400, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub async fn upload(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    form: Result<Multipart, MultipartRejection>,
) -> Answer<Json<Uploaded>> {
    let form = form.map_err(|error| ServiceError::invalid("body", error.body_text()))?;
    services.sandbox(&caller, &id).await?;
    let user = query.get("user").map(str::to_owned);
    let to = To { services: &services, caller: &caller, id: &id, user };
    Ok(Json(to.receive(form, query.get("path").map(str::to_owned)).await?))
}

/// Where the file of a form stands.
enum Held {
    Nothing,
    InMemory(Bytes),
    Hidden(Hidden, Uploaded),
    Written(Uploaded),
}

/// The sandbox that a form is sent to.
struct To<'a> {
    services: &'a Arc<Services>,
    caller: &'a Caller,
    id: &'a str,
    user: Option<String>,
}

fn broken(error: MultipartError) -> ServiceError {
    ServiceError::invalid("body", format!("the form cannot be read: {}", error.body_text()))
}

impl To<'_> {
    async fn receive(&self, mut form: Multipart, mut path: Option<String>) -> Result<Uploaded, ServiceError> {
        let (mut held, mut name) = (Held::Nothing, String::new());
        while let Some(field) = form.next_field().await.map_err(broken)? {
            match field.name() {
                Some("path") => path = Some(text(field, "path").await?),
                Some("file") if !matches!(held, Held::Nothing) => {
                    return Err(ServiceError::invalid("file", "comes once; send one form for each file"));
                }
                Some("file") => {
                    name = field.file_name().unwrap_or_default().to_owned();
                    held =
                        self.hold(field, path.as_deref().map(|path| full(path, &name)).transpose()?).await?;
                }
                // Whatever else older clients send does not matter.
                _ => drop(field),
            }
        }
        let needed =
            || ServiceError::invalid("path", "is needed, as a part of the form or in the query string");
        let path = path.ok_or_else(needed)?;
        self.settle(held, &full(&path, &name)?).await
    }

    async fn hold(&self, mut field: Field<'_>, path: Option<String>) -> Result<Held, ServiceError> {
        let (mut first, mut size, mut over) = (Vec::new(), 0, false);
        while size <= SMALL && !over {
            match field.chunk().await.map_err(broken)? {
                Some(piece) => {
                    size += piece.len();
                    first.push(piece);
                }
                None => over = true,
            }
        }
        if over && path.is_none() {
            return Ok(Held::InMemory(first.concat().into()));
        }
        let place = match &path {
            Some(path) => self.place(path),
            None => self.services.spool_place(self.user.clone())?,
        };
        let written = self.pass_on(&place, first, field).await?;
        Ok(match path {
            Some(_) => Held::Written(written),
            None => Held::Hidden(Hidden::new(self, place), written),
        })
    }

    /// Sends the pieces that were read already and then the rest of the part. The upload reads from a channel, since
    /// the part lives only as long as the form is read.
    async fn pass_on(
        &self,
        place: &Place,
        first: Vec<Bytes>,
        mut field: Field<'_>,
    ) -> Result<Uploaded, ServiceError> {
        let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, MultipartError>>(4);
        let rest = tokio_stream::wrappers::ReceiverStream::new(receive);
        let data = stream::iter(first.into_iter().map(Ok)).chain(rest);
        let reading = async move {
            while let Some(piece) = field.chunk().await.transpose() {
                let broken = piece.is_err();
                if send.send(piece).await.is_err() || broken {
                    return;
                }
            }
        };
        let uploading = self.services.upload(self.caller, self.id, place, Shape::File, data);
        tokio::join!(reading, uploading).1
    }

    async fn settle(&self, held: Held, path: &str) -> Result<Uploaded, ServiceError> {
        match held {
            Held::Nothing => Err(ServiceError::invalid("file", "is needed, as a part of the form")),
            Held::Written(uploaded) => Ok(uploaded),
            Held::InMemory(bytes) => {
                let data = stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
                self.services.upload(self.caller, self.id, &self.place(path), Shape::File, data).await
            }
            Held::Hidden(mut hidden, uploaded) => {
                let (source, user) = (hidden.place.path.clone(), self.user.clone());
                let ask = MoveFile { source, destination: path.to_owned(), user };
                let moved = self.services.move_file(self.caller, self.id, ask).await?;
                hidden.stays = false;
                let message = format!("{} bytes were written to {}", uploaded.size, moved.path);
                Ok(Uploaded { message, path: moved.path, size: uploaded.size })
            }
        }
    }

    fn place(&self, path: &str) -> Place {
        Place { path: path.to_owned(), user: self.user.clone() }
    }
}

/// The file's path, when the caller may have named its directory.
fn full(path: &str, name: &str) -> Result<String, ServiceError> {
    if !path.ends_with('/') {
        return Ok(path.to_owned());
    }
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    if name.is_empty() {
        return Err(ServiceError::invalid("path", "names a directory, and the file has no name"));
    }
    Ok(format!("{path}{name}"))
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String, ServiceError> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > TEXT {
            return Err(ServiceError::invalid(name, format!("has more than {TEXT} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ServiceError::invalid(name, "is no UTF-8 text"))
}

/// A complete file at a hidden place. Unless it was moved away, it is removed when this is dropped, however that comes.
struct Hidden {
    services: Arc<Services>,
    caller: Caller,
    id: String,
    place: Place,
    stays: bool,
}

impl Hidden {
    fn new(to: &To<'_>, place: Place) -> Self {
        let (services, caller) = (to.services.clone(), to.caller.clone());
        Self { services, caller, id: to.id.to_owned(), place, stays: true }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.stays {
            return;
        }
        let (services, caller) = (self.services.clone(), self.caller.clone());
        let (id, place) = (std::mem::take(&mut self.id), self.place.clone());
        tokio::spawn(async move {
            if let Err(error) = services.remove_file(&caller, &id, place).await {
                tracing::warn!(sandbox = id, %error, "a hidden file of a broken upload stays");
            }
        });
    }
}
