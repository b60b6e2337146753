//! The smallest web server that answers the same to everybody, so that what stands before it is what is measured.

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What it answers: as much as a small page of JSON.
const BODY: [u8; 128] = [b'x'; 128];

/// Answers on loopback until it is killed; the port is printed.
pub async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that leaves is no failure.
        tokio::spawn(async move { answer(stream).await.ok() });
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY.len()).into_bytes();
    response.extend(BODY);
    let mut buffer = Vec::with_capacity(8 << 10);
    while stream.read_buf(&mut buffer).await? > 0 {
        // Requests have no bodies here, and one is written after the other was answered.
        if buffer.ends_with(b"\r\n\r\n") {
            buffer.clear();
            stream.write_all(&response).await?;
        }
    }
    Ok(())
}
