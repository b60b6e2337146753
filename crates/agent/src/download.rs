//! `GET /files`: whole files and parts of them, streamed at any size.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_proto::range::{Part, part};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rustix::fs::{Mode, OFlags};

use crate::app::App;
use crate::errors::ApiError;
use crate::http::{self as web, Body};
use crate::paths;
use crate::transfer::target;
use crate::users::Account;

/// One read of a download.
const CHUNK: usize = 256 << 10;

/// What is sent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// To its end, wherever that is: files of the kernel have no size.
    Unsized,
    /// So many bytes from an offset, of so many.
    Bytes { from: u64, length: u64, size: u64 },
    /// All of it, compressed.
    Gzip,
    /// The asked range begins beyond its end.
    Beyond { size: u64 },
    /// The client has it as it is.
    NotModified,
}

/// Sends a file.
pub async fn download(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (account, path) = target(app, &request)?;
    let opened = path.clone();
    let open = app.workers.run(&account, move || open(&opened)).await;
    let (file, metadata) = open.map_err(ApiError::file(path.clone()))?;
    let modified = metadata.modified().ok().map(whole_seconds);
    let sent = decide(request.headers(), metadata.len(), modified);
    let mut response = Response::new(web::empty());
    describe(response.headers_mut(), &path, modified);
    *response.status_mut() = announce(response.headers_mut(), sent);
    let has_body = request.method() != Method::HEAD && response.status().is_success();
    if has_body {
        *response.body_mut() = body(app, account, file, sent).map_err(ApiError::file(path))?;
    }
    Ok(response)
}

fn body(app: &Arc<App>, account: Account, mut file: File, sent: Sent) -> io::Result<Body> {
    Ok(match sent {
        Sent::Gzip => {
            let reader = flate2::read::GzEncoder::new(file, flate2::Compression::fast());
            stream(Arc::clone(app), account, reader)
        }
        Sent::Bytes { from, length, .. } => {
            if from > 0 {
                file.seek(SeekFrom::Start(from))?;
            }
            stream(Arc::clone(app), account, file.take(length))
        }
        _ => stream(Arc::clone(app), account, file),
    })
}

/// What is to be sent, as RFC 9110 (13.2) has it for a file that has a date and no tag. Compression is for clients that want
/// nothing else: it costs more time than it saves on the way to a machine nearby.
fn decide(headers: &HeaderMap, size: u64, modified: Option<SystemTime>) -> Sent {
    let date = |name: HeaderName| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    let known = headers.get(header::IF_NONE_MATCH).map_or_else(
        || modified.zip(date(header::IF_MODIFIED_SINCE)).is_some_and(|(modified, since)| modified <= since),
        |tag| tag == "*",
    );
    if known {
        return Sent::NotModified;
    }
    if size == 0 {
        return if wants_gzip(headers) { Sent::Gzip } else { Sent::Unsized };
    }
    let same = !headers.contains_key(header::IF_RANGE) || modified == date(header::IF_RANGE);
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).filter(|_| same);
    match part(range, size) {
        Part::Some { from, length } => Sent::Bytes { from, length, size },
        Part::Beyond => Sent::Beyond { size },
        Part::Whole if wants_gzip(headers) => Sent::Gzip,
        Part::Whole => Sent::Bytes { from: 0, length: size, size },
    }
}

/// Whether gzip is the only thing that a client takes.
fn wants_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let quality = |wanted: &str| {
        text.split(',').find_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            named.then(|| quality.unwrap_or(1.0))
        })
    };
    let plain_refused = quality("identity").or_else(|| quality("*")).is_some_and(|quality| quality <= 0.0);
    let others = text.split(',').filter(|item| !item.trim().is_empty()).count() > 1;
    quality("gzip").is_some_and(|quality| quality > 0.0) && (!others || plain_refused)
}

/// HTTP's dates have no parts of seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn describe(headers: &mut HeaderMap, path: &str, modified: Option<SystemTime>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let name = paths::split(path).map_or("", |(_, name)| name);
    let encoded: String = name.bytes().map(encode).collect();
    let disposition = format!("inline; filename*=UTF-8''{encoded}");
    let modified = modified.map(httpdate::fmt_http_date);
    for (name, value) in [(header::CONTENT_DISPOSITION, Some(disposition)), (header::LAST_MODIFIED, modified)]
    {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    }
}

/// Says in the headers what is sent, and gives the status.
fn announce(headers: &mut HeaderMap, sent: Sent) -> StatusCode {
    let mut range = |text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(header::CONTENT_RANGE, value);
        }
    };
    match sent {
        Sent::NotModified => return StatusCode::NOT_MODIFIED,
        Sent::Beyond { size } => {
            range(format!("bytes */{size}"));
            return StatusCode::RANGE_NOT_SATISFIABLE;
        }
        Sent::Bytes { from, length, size } if length < size => {
            range(format!("bytes {from}-{}/{size}", from + length - 1));
        }
        _ => {}
    }
    match sent {
        Sent::Gzip => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Sent::Bytes { length, .. } => {
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        _ => {}
    }
    match headers.contains_key(header::CONTENT_RANGE) {
        true => StatusCode::PARTIAL_CONTENT,
        false => StatusCode::OK,
    }
}

fn encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// Opens a regular file without waiting: a fifo would wait for a writer.
pub fn open(path: &str) -> io::Result<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "the path is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the path is not a regular file"));
    }
    // A hint: without it reading ahead is only less eager.
    let _ = rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::Sequential);
    Ok((file, metadata))
}

/// A body from a reader, one chunk at a time.
fn stream(app: Arc<App>, account: Account, reader: impl Read + Send + 'static) -> Body {
    let chunks = futures::stream::unfold(Some(reader), move |reader| {
        let (app, account) = (Arc::clone(&app), account.clone());
        async move {
            let reader = reader?;
            match app.workers.run(&account, move || read_chunk(reader)).await {
                Ok((chunk, _)) if chunk.is_empty() => None,
                Ok((chunk, reader)) => Some((Ok(Frame::data(chunk)), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

fn read_chunk<R: Read>(mut reader: R) -> io::Result<(Bytes, R)> {
    // Not `read_to_end`, which begins with small reads.
    let (mut chunk, mut length) = (vec![0; CHUNK], 0);
    while length < CHUNK {
        match reader.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(length);
    Ok((chunk.into(), reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn decided(pairs: &[(&'static str, &str)]) -> Sent {
        let headers =
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        decide(&headers.collect(), 100, Some(httpdate::parse_http_date(THEN).unwrap()))
    }

    const WHOLE: Sent = Sent::Bytes { from: 0, length: 100, size: 100 };
    const FIRST: Sent = Sent::Bytes { from: 0, length: 10, size: 100 };

    #[test]
    fn conditions_and_ranges_are_kept_to() {
        for (headers, expected) in [
            (vec![], WHOLE),
            (vec![("range", "bytes=0-9")], FIRST),
            (vec![("range", "bytes=100-")], Sent::Beyond { size: 100 }),
            (vec![("range", "bytes=0-9"), ("if-range", THEN)], FIRST),
            (vec![("range", "bytes=0-9"), ("if-range", BEFORE)], WHOLE),
            (vec![("range", "bytes=0-9"), ("if-range", "\"tag\"")], WHOLE),
            (vec![("range", "bytes=0-9"), ("accept-encoding", "gzip")], FIRST),
            (vec![("if-modified-since", THEN)], Sent::NotModified),
            (vec![("if-modified-since", BEFORE)], WHOLE),
            (vec![("if-modified-since", THEN), ("if-none-match", "\"tag\"")], WHOLE),
            (vec![("if-none-match", "*")], Sent::NotModified),
            (vec![("if-modified-since", "yesterday")], WHOLE),
        ] {
            assert_eq!(decided(&headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn only_who_wants_nothing_else_gets_gzip() {
        for (accepted, gzip) in [
            ("gzip", true),
            ("GZIP;q=0.5", true),
            ("gzip, identity;q=0", true),
            ("gzip;q=1.0, *;q=0", true),
            ("", false),
            ("gzip, deflate, br", false),
            ("gzip;q=0", false),
            ("br", false),
            ("*", false),
        ] {
            assert_eq!(decided(&[("accept-encoding", accepted)]) == Sent::Gzip, gzip, "{accepted}");
        }
    }
}
