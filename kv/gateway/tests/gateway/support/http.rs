//! HTTP/1.1 as far as the tests need it, so that both sides are seen byte by byte and chunk by chunk.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

/// An answer that is complete.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Body {
    /// One value a line.
    Json(Vec<Value>),
    Text(String),
}

/// Sends a request with the whole body and reads the whole answer.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    let mut exchange = Exchange::open(address, method, path, headers, Some(body)).await?;
    let (status, headers) = exchange.head().await?;
    let text = String::from_utf8(exchange.rest().await?)?;
    let is_json = headers.iter().any(|(name, value)| name == "content-type" && value == "application/json");
    let body = match is_json {
        true => Body::Json(serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?),
        false => Body::Text(text),
    };
    Ok(Answer { status, headers, body })
}

/// A request and an answer that arrive bit by bit.
pub(crate) struct Exchange {
    connection: BufReader<TcpStream>,
    is_chunked: bool,
    length: u64,
    received: Vec<u8>,
    has_ended: bool,
}

impl Exchange {
    /// Sends the head of a request and the body; without one it is sent later, in chunks.
    pub(crate) async fn open(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> anyhow::Result<Self> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&match body {
            Some(body) => format!("Content-Length: {}\r\n\r\n", body.len()),
            None => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        });
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(head.as_bytes()).await?;
        // A server may answer and close before it has read a long body.
        let _ = connection.write_all(body.unwrap_or_default()).await;
        Ok(Self {
            connection: BufReader::new(connection),
            is_chunked: false,
            length: 0,
            received: Vec::new(),
            has_ended: false,
        })
    }

    /// Sends a chunk of the body; an empty one is its end.
    pub(crate) async fn write(&mut self, chunk: &str) -> anyhow::Result<()> {
        let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
        Ok(self.connection.write_all(chunk.as_bytes()).await?)
    }

    /// The status and the headers of the answer, names in lower case.
    pub(crate) async fn head(&mut self) -> anyhow::Result<(u16, Vec<(String, String)>)> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).with_context(|| format!("status line {status:?}"))?.parse()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        self.is_chunked = header("transfer-encoding") == Some("chunked");
        self.length = header("content-length").unwrap_or("0").parse()?;
        Ok((status, headers))
    }

    /// The next line of the body, as a value; `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if !self.more().await? {
                let last = std::mem::take(&mut self.received);
                return if last.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&last)?)) };
            }
        }
    }

    async fn rest(mut self) -> anyhow::Result<Vec<u8>> {
        while self.more().await? {}
        Ok(self.received)
    }

    /// Receives more of the body; `false` at its end.
    async fn more(&mut self) -> anyhow::Result<bool> {
        if self.has_ended {
            return Ok(false);
        }
        if !self.is_chunked {
            self.has_ended = true;
            return self.receive(self.length).await.map(|()| true);
        }
        let size = self.line().await?;
        let size = u64::from_str_radix(&size, 16).with_context(|| format!("size of a chunk {size:?}"))?;
        self.receive(size).await?;
        self.has_ended = size == 0;
        self.line().await?;
        Ok(true)
    }

    async fn receive(&mut self, bytes: u64) -> anyhow::Result<()> {
        let mut limited = (&mut self.connection).take(bytes);
        let received =
            timeout(PATIENCE, limited.read_to_end(&mut self.received)).await.context("no body in time")??;
        if received as u64 == bytes { Ok(()) } else { bail!("the body ended after {received} of {bytes} bytes") }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        timeout(PATIENCE, self.connection.read_line(&mut line)).await.context("no line in time")??;
        Ok(line.trim_end().to_owned())
    }
}
