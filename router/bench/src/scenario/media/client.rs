//! A client that uploads files: to the service with a token, and to the addresses that it has signed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::{self, Connection, request};
use crate::load::{Operation, Outcome};
use crate::population::User;

/// A request that the service has signed.
#[derive(Debug, Deserialize)]
pub(super) struct Signed {
    method: String,
    url: String,
    headers: BTreeMap<String, String>,
}

impl Signed {
    /// The bytes of its content, as it was signed.
    pub(super) fn bytes(&self) -> Result<usize> {
        let length = self.headers.get("content-length");
        Ok(length.context("a signed request has no length")?.parse()?)
    }

    fn head(&self) -> Vec<u8> {
        let headers = self.headers.iter();
        let headers: String = headers
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "{} {} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n",
            self.method, self.url
        )
        .into_bytes()
    }
}

/// A user's connection to a server with the disk store, which takes the bytes itself.
pub(super) struct Client {
    address: SocketAddr,
    connection: Connection,
    user: User,
}

impl Client {
    pub(super) async fn open(address: SocketAddr, user: &User) -> Result<Self> {
        let (connection, user) = (Connection::open(address).await?, user.clone());
        Ok(Self {
            address,
            connection,
            user,
        })
    }

    /// The status and the JSON of an answer of the service.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let body = body.map(ToString::to_string);
        let request = request(method, path, &self.user.token, body.as_deref());
        let answer = self.connection.exchange(&request).await?;
        let body = serde_json::from_slice(answer.body);
        Ok((
            answer.status,
            body.with_context(|| http::text(answer.body))?,
        ))
    }

    /// The same, for an answer that has to be a success.
    pub(super) async fn expect(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let (status, answer) = self.ask(method, path, body).await?;
        ensure!(
            status < 300,
            "{method} {path} was answered with {status}: {answer}"
        );
        Ok(answer)
    }

    /// Sends the content of a signed request; the status of its answer.
    pub(super) async fn put(&mut self, signed: &Signed, content: &[u8]) -> Result<u16> {
        let mut request = signed.head();
        request.extend_from_slice(content);
        Ok(self.connection.exchange(&request).await?.status)
    }

    /// Sends half of the content on a connection of its own, which breaks then.
    pub(super) async fn put_half(&self, signed: &Signed, content: &[u8]) -> Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(&signed.head()).await?;
        stream.write_all(&content[..content.len() / 2]).await?;
        Ok(stream.flush().await?)
    }
}

/// Uploads one picture after the other: declared, sent, completed.
pub(super) struct Uploader {
    client: Client,
    conversation: String,
    picture: Arc<[u8]>,
}

impl Uploader {
    pub(super) fn new(client: Client, conversation: &str, picture: &Arc<[u8]>) -> Self {
        Self {
            client,
            conversation: conversation.to_owned(),
            picture: Arc::clone(picture),
        }
    }
}

impl Operation for Uploader {
    async fn perform(&mut self) -> Result<Outcome> {
        let declared = declaration(&self.conversation, "image/jpeg", self.picture.len() as u64);
        let (status, mut begun) = self
            .client
            .ask("POST", "/chat/media", Some(&declared))
            .await?;
        if status != 201 {
            return refused(status, &begun);
        }
        let signed: Signed = serde_json::from_value(begun["upload"].take())?;
        let status = self.client.put(&signed, &self.picture).await?;
        if status != 200 {
            return refused(status, &Value::Null);
        }
        let path = format!("/chat/media/{}/complete", text(&begun["mediaId"])?);
        let (status, completed) = self.client.ask("POST", &path, None).await?;
        if status != 200 {
            return refused(status, &completed);
        }
        let is_accepted = completed["state"] == "processing" || completed["state"] == "ready";
        ensure!(is_accepted, "a picture was not accepted: {completed}");
        Ok(Outcome::Done)
    }
}

fn refused(status: u16, answer: &Value) -> Result<Outcome> {
    let is_busy = status == 408 || status >= 429;
    ensure!(is_busy, "an upload was answered with {status}: {answer}");
    Ok(Outcome::Refused(status))
}

/// What `POST /chat/media` is told of a file.
pub(super) fn declaration(conversation: &str, content_type: &str, bytes: u64) -> Value {
    json!({ "conversationId": conversation, "fileName": "file", "contentType": content_type, "bytes": bytes })
}

pub(super) fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .with_context(|| format!("{value} is no text"))
}
