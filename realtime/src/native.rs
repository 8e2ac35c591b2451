//! The native door: JSON text frames over WebSocket (RFC 6455), as `PROTOCOL.md` describes them.
//!
//! One task a connection. Buffers are small, as most connections are idle. An older front-end is recognised by the place of its
//! token, and served in its [dialect](crate::legacy::plain).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use backscroll_shard::model::{RawJson, from_object};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use crate::admission::ConnectionPermit;
use crate::client_event::ClientEvent;
use crate::door::{self, Command, Dialect, Door, End, WRITE_TIMEOUT};
use crate::edge::{AUTHENTICATE_WITHIN, Identity};
use crate::gateway::Gateway;
use crate::legacy::plain;
use crate::metrics;
use crate::outbox::Item;
use crate::protocol::events::EventName;
use crate::protocol::{Authenticate, Close};
use crate::session::Session;

pub use crate::legacy::plain::token_in;

/// Bytes of the read buffer; a longer frame has a longer one while it is read.
const READ_BUFFER: usize = 2048;
/// Bytes that are gathered before they are written.
const WRITE_BUFFER: usize = 8 << 10;
/// How long closing waits for the client to close, too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The subprotocol that carries a token: `Sec-WebSocket-Protocol: bearer, <jwt>`.
pub const BEARER: &str = "bearer";

/// How the client presents its token.
#[derive(Debug)]
pub enum Credentials {
    /// In a header; it was checked already.
    Known(Identity),
    /// In the subprotocol.
    Token(String),
    /// In the address ([`token_in`]), as an older front-end does.
    Address(String),
    /// In the first frame.
    FirstFrame,
}

/// Applies this door's bounds to `upgrade`.
pub fn bounded<F>(upgrade: WebSocketUpgrade<F>, max_frame: usize) -> WebSocketUpgrade<F> {
    upgrade
        .protocols([BEARER])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(16 << 20)
        .max_frame_size(max_frame)
        .max_message_size(max_frame)
}

/// Serves a connection until it ends.
pub async fn serve(
    gateway: Arc<Gateway>,
    permit: ConnectionPermit,
    mut socket: WebSocket,
    credentials: Credentials,
) {
    // What happens once is on the heap, so that a connection's task is no larger than what stays.
    let (session, dialect) = match Box::pin(enter(&gateway, &mut socket, credentials)).await {
        Ok(entered) => entered,
        Err(end) => return Box::pin(close(&mut socket, end)).await,
    };
    let mut door = NativeDoor {
        socket: &mut socket,
        session: &session,
        dialect: dialect.as_deref(),
        ahead: None,
    };
    door::serve(&gateway, &session, &mut door, dialect.as_ref()).await;
    drop(permit);
}

/// A session, and the dialect of its front-end.
type Entered = (Arc<Session>, Option<Arc<dyn Dialect>>);

/// Authenticates the client and opens its session.
async fn enter(
    gateway: &Arc<Gateway>,
    socket: &mut WebSocket,
    credentials: Credentials,
) -> Result<Entered, End> {
    let (mut dialect, mut resume) = (None, None);
    let identity = match credentials {
        Credentials::Known(identity) => identity,
        Credentials::Token(token) => authenticate(gateway, socket, &token, false).await?,
        Credentials::Address(token) => {
            dialect = Some(plain::dialect());
            authenticate(gateway, socket, &token, true).await?
        }
        Credentials::FirstFrame => {
            let first = tokio::time::timeout(AUTHENTICATE_WITHIN, first_frame(socket)).await;
            let (first, is_plain) = first.map_err(|_| Close::Unauthenticated)??;
            dialect = is_plain.then(plain::dialect);
            resume = first.resume;
            authenticate(gateway, socket, &first.token, is_plain).await?
        }
    };
    Ok((gateway.open(identity, resume, true).await?, dialect))
}

/// Checks a token. The client receives an `error` event when it is not accepted.
async fn authenticate(
    gateway: &Gateway,
    socket: &mut WebSocket,
    token: &str,
    is_plain: bool,
) -> Result<Identity, End> {
    let (close, failure) = match gateway.authenticate(token).await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    let error = ClientEvent::new(EventName::Error, &failure);
    let frame = if is_plain {
        plain::frame(&error).into()
    } else {
        error.frame()
    };
    let sending = socket.send(Message::Text(frame));
    let _ = tokio::time::timeout(WRITE_TIMEOUT, sending).await;
    Err(close.into())
}

/// Waits for the first frame: the token, and whether the frame is an older front-end's.
async fn first_frame(socket: &mut WebSocket) -> Result<(Authenticate, bool), End> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let Some(frame) = Frame::read(&text) else {
                    let first = plain::credentials(&text).ok_or(Close::InvalidFrame)?;
                    return Ok((first, true));
                };
                if frame.event != "authenticate" {
                    return Err(Close::Unauthenticated.into());
                }
                let first = from_object(frame.data()).map_err(|_| Close::InvalidFrame)?;
                return Ok((first, false));
            }
            Some(Ok(Message::Binary(_))) => return Err(Close::InvalidFrame.into()),
            Some(Ok(Message::Close(_))) => return Err(End::Left),
            None => return Err(End::Gone),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

/// A command's frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    ack: Option<u64>,
}

impl<'a> Frame<'a> {
    /// Reads a frame. A JSON array is none, which serde by itself would take for the list of its fields.
    fn read(text: &'a str) -> Option<Self> {
        let is_object = text.trim_ascii_start().starts_with('{');
        serde_json::from_str(text).ok().filter(|_| is_object)
    }

    fn data(&self) -> &str {
        self.data.map_or("{}", RawValue::get)
    }

    fn into_command(self) -> Command {
        Command {
            data: self.data().into(),
            name: self.event.into(),
            ack: self.ack,
            binary: false,
        }
    }
}

/// What the socket gave: a message, an error, or its end.
type Received = Option<Result<Message, axum::Error>>;

/// A connection as a [`Door`].
struct NativeDoor<'a> {
    socket: &'a mut WebSocket,
    session: &'a Session,
    dialect: Option<&'a dyn Dialect>,
    /// Read by [`Door::next_same`], but to be taken by [`Door::next_command`].
    ahead: Option<Received>,
}

impl NativeDoor<'_> {
    fn command(&self, text: &str) -> Option<Command> {
        match self.dialect {
            None => Some(Frame::read(text)?.into_command()),
            Some(_) => plain::command(text),
        }
    }

    fn encode(&self, item: Item) -> Option<Message> {
        Some(match item {
            Item::Event(event) => Message::Text(match self.dialect {
                None => event.frame(),
                Some(dialect) => dialect.write(&event, &self.session.user)?.into(),
            }),
            Item::Ping => Message::Ping(bytes::Bytes::new()),
            Item::Reply { ack, outcome } => Message::Text(
                match outcome {
                    Ok(data) => format!(r#"{{"ack":{ack},"data":{}}}"#, data.get()),
                    Err(failure) => {
                        format!(r#"{{"ack":{ack},"error":{}}}"#, RawJson::of(&failure).get())
                    }
                }
                .into(),
            ),
        })
    }
}

impl Door for NativeDoor<'_> {
    async fn open(&mut self) -> Result<(), End> {
        Ok(()) // `hello` does
    }

    async fn next_command(&mut self) -> Result<Option<Command>, End> {
        let message = match self.ahead.take() {
            Some(message) => message,
            None => self.socket.next().await,
        };
        match message {
            Some(Ok(Message::Text(text))) => match self.command(&text) {
                Some(command) => Ok(Some(command)),
                None => Err(Close::InvalidFrame.into()),
            },
            Some(Ok(Message::Binary(_))) => Err(Close::InvalidFrame.into()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
            Some(Ok(Message::Close(_))) => Err(End::Left),
            None => Err(End::Gone),
            Some(Err(error)) => Err(broken(error)),
        }
    }

    fn next_same(&mut self, name: &str) -> Option<Command> {
        let next = self.socket.next().now_or_never()?;
        if let Some(Ok(Message::Text(text))) = &next
            && let Some(frame) = Frame::read(text)
            && frame.event == name
        {
            return Some(frame.into_command());
        }
        self.ahead = Some(next);
        None
    }

    async fn send(&mut self, items: Vec<Item>) -> Result<(), End> {
        let sending = async {
            for item in items {
                if let Some(message) = self.encode(item) {
                    self.socket.feed(message).await?;
                }
            }
            self.socket.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(Close::SlowConsumer.into()),
        }
    }

    async fn close(&mut self, end: End) {
        close(self.socket, end).await;
    }
}

/// The end of a connection that cannot be read any more.
fn broken(error: axum::Error) -> End {
    let Ok(error) = error.into_inner().downcast::<tungstenite::Error>() else {
        return End::Gone;
    };
    match *error {
        tungstenite::Error::Capacity(_) => Close::FrameTooLarge.into(),
        tungstenite::Error::Utf8(_) => End::Violation(close_code::INVALID),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        tungstenite::Error::Protocol(_) => End::Violation(close_code::PROTOCOL),
        _ => End::Gone,
    }
}

/// Sends the reason, and waits for the client to read it.
async fn close(socket: &mut WebSocket, end: End) {
    let (code, reason) = match end {
        End::Close(close) => (close.code(), close.name()),
        End::Violation(code) => (code, "protocol_error"),
        End::Left => {
            // The library has its answer ready; it goes out with the next read, which ends the handshake.
            let answering = async { while let Some(Ok(_)) = socket.next().await {} };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, answering).await;
            return;
        }
        End::Gone => return,
    };
    metrics::CLOSED.with([reason]).increment(1);
    let message = Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }));
    let closing = async {
        if socket.send(message).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is what an idle connection holds, besides its buffers.
    #[test]
    fn a_connection_s_task_is_small() {
        fn size<F: Future>(
            _: impl Fn(Arc<Gateway>, ConnectionPermit, WebSocket, Credentials) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        assert!(size < 2048, "{size} bytes");
    }
}
