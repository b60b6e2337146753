//! Files and directories over plain HTTP, against the real agent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A body far larger than any buffer, sent and compared piece by piece.
#[tokio::test]
async fn a_hundred_megabytes_go_up_and_down() {
    let agent = Sandbox::start();
    let path = agent.path("new/dir/big");
    let data = Bytes::from(pattern(100 << 20));
    let (status, body) = agent.post(&format!("/files?path={path}"), data.clone()).await;
    assert_eq!(status, 200, "{body:?}");
    let written: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(written, serde_json::json!([{ "name": "big", "type": "file", "path": path }]));
    assert_eq!(names(agent.path("new/dir")), ["big"]);
    let (status, back) = agent.get(&format!("/files?path={path}")).await;
    assert!(status == 200 && back == data);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let agent = Sandbox::start();
    std::fs::create_dir(agent.path("here")).unwrap();
    std::fs::write(agent.path("here/old"), "old").unwrap();
    for (method, uri) in [("POST", "files"), ("PUT", "dirs")] {
        for name in ["old", "new", "deeper/new"] {
            if uri == "dirs" && name == "old" {
                continue;
            }
            let path = agent.path(&format!("here/{name}"));
            let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
            let head =
                format!("{method} /{uri}?path={path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&archive(|builder| add(builder, "file", &vec![1; 300_000]))).await.unwrap();
            let spooled = || names(agent.path("here")).iter().any(|name| name.starts_with(".atoll-"));
            eventually("the upload has begun", async || spooled()).await;
            drop(stream);
            eventually("nothing is left", async || !spooled()).await;
        }
    }
    assert_eq!(names(agent.path("here")), ["old"]);
    assert_eq!(std::fs::read(agent.path("here/old")).unwrap(), b"old");
}

#[tokio::test]
async fn files_belong_to_the_user_and_follow_its_rights() {
    let agent = Sandbox::start();
    std::fs::set_permissions(agent.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = agent.path("a/file");
    assert_eq!(agent.post(&format!("/files?path={path}&username=4321"), "x").await.0, 200);
    for path in [&path, &agent.path("a")] {
        assert_eq!(std::fs::metadata(path).unwrap().uid(), 4321);
    }
    std::fs::write(agent.path("secret"), "s").unwrap();
    std::fs::set_permissions(agent.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let secret = agent.path("secret");
    assert_eq!(agent.get(&format!("/files?path={secret}&username=4321")).await.0, 403);
    assert_eq!(agent.get(&format!("/files?path={secret}")).await.0, 200);
    assert_eq!(agent.post("/files?path=/root/x&username=4321", "x").await.0, 403);
    let (status, body) = agent.get("/files?path=x&username=nobody-here").await;
    assert_eq!(status, 401);
    assert!(String::from_utf8_lossy(&body).contains("invalid username: 'nobody-here'"), "{body:?}");
    // The credentials of one request never stay with the thread.
    for _ in 0..50 {
        assert_eq!(agent.get(&format!("/files?path={secret}")).await.0, 200);
        assert_eq!(agent.get(&format!("/files?path={secret}&username=4321")).await.0, 403);
    }
}

#[tokio::test]
async fn bad_paths_are_refused_and_traversal_leads_nowhere_new() {
    let agent = Sandbox::start();
    for (uri, status) in [
        ("/files", 400),
        ("/files?path=", 400),
        ("/files?path=%00", 400),
        ("/files?path=/etc", 400),
        ("/files?path=/no/such/file", 404),
        ("/files?path=/etc/passwd/below", 400),
        ("/files?path=/dev/zero", 400),
        ("/files?path=/etc/passwd&path=/etc/group", 400),
        ("/dirs?path=/no/such", 404),
        ("/dirs?path=/etc/passwd", 400),
        ("/no/such/route", 404),
    ] {
        assert_eq!(agent.get(uri).await.0, status, "{uri}");
    }
    let (status, body) = agent.get("/files?path=/../../../etc/hostname/../passwd").await;
    assert!(status == 200 && body.starts_with(b"root:"));
}

#[tokio::test]
async fn special_files_of_the_kernel_are_read_to_their_end() {
    let agent = Sandbox::start();
    let (status, body) = agent.get("/files?path=/proc/self/status").await;
    assert!(status == 200 && body.starts_with(b"Name:\tatoll-agent"), "{body:?}");
}

#[tokio::test]
async fn forms_gzip_and_metadata() {
    let agent = Sandbox::start();
    let (one, two) = (agent.path("one"), agent.path("two"));
    let form = |first: &str, second: &str| {
        format!(
            "--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{first}\"\r\n\r\n1\r\n\
             --B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{second}\"\r\n\r\n22\r\n--B--\r\n"
        )
    };
    let send = |uri: String, form: String| {
        Request::post(uri)
            .header("host", "a")
            .header("content-type", "multipart/form-data; boundary=B")
            .header("x-metadata-origin", "test")
            .body(Full::new(Bytes::from(form)))
            .unwrap()
    };
    let (status, body) = answer(agent.http(send("/files".into(), form(&one, &two))).await).await;
    assert_eq!(status, 200, "{body:?}");
    assert_eq!((std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap()), (b"1".to_vec(), b"22".to_vec()));
    let written: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(written[1]["metadata"]["origin"], "test");
    let twice = send(format!("/files?path={one}"), form("a", "b"));
    assert_eq!(answer(agent.http(twice).await).await.0, 400);

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&pattern(500_000)).unwrap();
    let packed = Bytes::from(encoder.finish().unwrap());
    let request =
        Request::post(format!("/files?path={two}")).header("host", "a").header("content-encoding", "gzip");
    assert_eq!(answer(agent.http(request.body(Full::new(packed)).unwrap()).await).await.0, 200);
    assert_eq!(std::fs::read(&two).unwrap(), pattern(500_000));
    let request =
        Request::get(format!("/files?path={two}")).header("host", "a").header("accept-encoding", "gzip");
    let (_, packed) = answer(agent.http(request.body(Full::default()).unwrap()).await).await;
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut back).unwrap();
    assert_eq!(back, pattern(500_000));
}

fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o640);
    builder.append_data(&mut header, name, data).unwrap();
}

#[tokio::test]
async fn directories_travel_both_ways() {
    let agent = Sandbox::start();
    let from = agent.path("from");
    std::fs::create_dir_all(agent.path("from/sub")).unwrap();
    std::fs::write(agent.path("from/sub/big"), pattern(5 << 20)).unwrap();
    symlink("sub/big", agent.path("from/link")).unwrap();
    let (status, bytes) = agent.get(&format!("/dirs?path={from}")).await;
    assert_eq!(status, 200);
    let to = agent.path("to/here");
    let request =
        Request::put(format!("/dirs?path={to}")).header("host", "a").body(Full::new(bytes)).unwrap();
    let (status, body) = answer(agent.http(request).await).await;
    assert_eq!(status, 200, "{body:?}");
    assert_eq!(std::fs::read(agent.path("to/here/sub/big")).unwrap(), pattern(5 << 20));
    assert_eq!(std::fs::read_link(agent.path("to/here/link")).unwrap(), std::path::Path::new("sub/big"));

    let hostile = archive(|builder| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..7].copy_from_slice(b"../evil");
        header.set_size(1);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
    });
    let request =
        Request::put(format!("/dirs?path={to}")).header("host", "a").body(Full::new(hostile.into())).unwrap();
    let (status, body) = answer(agent.http(request).await).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).contains("'../evil' leads outside"), "{body:?}");
    assert_eq!(names(agent.path("to")), ["here"]);
    assert_eq!(names(&to), ["link", "sub"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_breaks_the_download_off() {
    let agent = Sandbox::start();
    std::fs::set_permissions(agent.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(agent.path("dir")).unwrap();
    std::fs::write(agent.path("dir/secret"), "s").unwrap();
    std::fs::set_permissions(agent.path("dir/secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
    let head = format!("GET /dirs?path={}&username=4321 HTTP/1.1\r\nhost: a\r\n\r\n", agent.path("dir"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.ends_with(b"0\r\n\r\n"), "the end of a complete body must not come");
}

#[tokio::test]
async fn an_unknown_wish_is_refused_in_one_shape() {
    let agent = Sandbox::start();
    let (status, body) = agent.get("/files?path=/no/such").await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 404);
    let expected = serde_json::json!({
        "code": 404, "error_code": "not_found", "message": "/no/such: no such file or directory",
    });
    assert_eq!(body, expected);
}
