//! The native door: JSON text frames over WebSocket (RFC 6455), as `PROTOCOL.md` describes them.
//!
//! One task a connection. It reads the next command once the one before is done, so that a client's commands are done in
//! order and a flood waits in the client's own buffers; meanwhile what the client is told goes out. A write that makes
//! no progress for [`WRITE_TIMEOUT`] ends the connection, as a full queue does. Buffers are small, as most connections are
//! idle.

use std::borrow::Cow;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use backscroll_shard::model::RawJson;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::gateway::{AUTHENTICATE_WITHIN, Gateway, Identity, Place};
use crate::outbox::Item;
use crate::protocol::{self, Authenticate, Close, Failure};
use crate::session::Session;

/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most items in one flush.
const FLUSH_ITEMS: usize = 16;
/// Refused commands in a row after which a client is cut off.
const REFUSED_MAX: u32 = 100;
/// Bytes of the read buffer; a longer frame gets a longer one while it is read.
const READ_BUFFER: usize = 2048;
/// Bytes that are gathered before they are written.
const WRITE_BUFFER: usize = 8 << 10;

/// The subprotocol that carries a token: `Sec-WebSocket-Protocol: bearer, <jwt>`.
pub const BEARER: &str = "bearer";

/// How the client said who it is.
#[derive(Debug)]
pub enum Credentials {
    /// By a token in a header, which was checked.
    Known(Identity),
    /// By a token in the subprotocol, which is to be checked.
    Token(String),
    /// By the first frame, which is still to come.
    FirstFrame,
}

/// `upgrade` with this door's bounds.
pub fn bounded<F>(upgrade: WebSocketUpgrade<F>, max_frame: usize) -> WebSocketUpgrade<F> {
    upgrade
        .protocols([BEARER])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(16 << 20)
        .max_frame_size(max_frame)
        .max_message_size(max_frame)
}

/// A command as it comes.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    ack: Option<u64>,
}

impl Frame<'_> {
    fn data(&self) -> &str {
        self.data.map_or("{}", RawValue::get)
    }
}

/// Serves one connection until it ends.
pub async fn serve(
    gateway: Arc<Gateway>,
    place: Place,
    mut socket: WebSocket,
    credentials: Credentials,
) {
    // What comes once is on the heap, so that a connection's task is no larger than what stays.
    let session = match Box::pin(enter(&gateway, &mut socket, credentials)).await {
        Ok(session) => session,
        Err(close) => return Box::pin(finish(&mut socket, close)).await,
    };
    let close = converse(&gateway, &session, &mut socket).await;
    gateway.end(&session);
    if let Some(close) = close {
        Box::pin(finish(&mut socket, close)).await;
    }
    drop(place);
}

/// Finds out who it is, and opens a session.
async fn enter(
    gateway: &Gateway,
    socket: &mut WebSocket,
    credentials: Credentials,
) -> Result<Arc<Session>, Close> {
    let (identity, resume) = match credentials {
        Credentials::Known(identity) => (identity, None),
        Credentials::Token(token) => (authenticate(gateway, socket, &token).await?, None),
        Credentials::FirstFrame => {
            let first = tokio::time::timeout(AUTHENTICATE_WITHIN, first_frame(socket)).await;
            let Authenticate { token, resume } = first.map_err(|_| Close::Unauthenticated)??;
            (authenticate(gateway, socket, &token).await?, resume)
        }
    };
    gateway.open(identity, resume, true).await
}

async fn authenticate(
    gateway: &Gateway,
    socket: &mut WebSocket,
    token: &str,
) -> Result<Identity, Close> {
    match gateway.authenticate(token).await {
        Ok(identity) => Ok(identity),
        Err((close, failure)) => {
            let text = protocol::event("error", &failure).frame();
            let _ = tokio::time::timeout(WRITE_TIMEOUT, socket.send(Message::Text(text))).await;
            Err(close)
        }
    }
}

async fn first_frame(socket: &mut WebSocket) -> Result<Authenticate, Close> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let frame: Frame<'_> =
                    serde_json::from_str(&text).map_err(|_| Close::InvalidFrame)?;
                if frame.event != "authenticate" {
                    return Err(Close::Unauthenticated);
                }
                return serde_json::from_str(frame.data()).map_err(|_| Close::InvalidFrame);
            }
            Some(Ok(Message::Binary(_))) => return Err(Close::InvalidFrame),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(&error)),
            None => return Err(Close::Unauthenticated),
        }
    }
}

type Pending = Pin<Box<dyn Future<Output = (Option<u64>, Result<Arc<RawJson>, Failure>)> + Send>>;

/// Takes commands and sends what waits, until one side ends it. Gives the reason when it is ours.
async fn converse(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    socket: &mut WebSocket,
) -> Option<Close> {
    let mut items: Vec<Item> = Vec::new();
    let mut command: Option<Pending> = None;
    let mut refused = 0;
    loop {
        let idle = command.is_none();
        let done = async {
            match command.as_mut() {
                Some(command) => command.await,
                None => pending().await,
            }
        };
        tokio::select! {
            // Answers first, so that they and what was told meanwhile go out together.
            biased;
            (ack, outcome) = done => {
                command = None;
                let limited = outcome.as_ref().is_err_and(|failure| failure.code == "rate_limited");
                refused = if limited { refused + 1 } else { 0 };
                if refused > REFUSED_MAX {
                    return Some(Close::RateLimited);
                }
                answer(session, ack, outcome);
                // What a command made is told to who made it, too: a moment later, in one write with the answer.
                tokio::task::yield_now().await;
            }
            waiting = session.outbox.next(&mut items, FLUSH_ITEMS) => {
                if let Err(close) = waiting {
                    return Some(close);
                }
                let sending = tokio::time::timeout(WRITE_TIMEOUT, send_all(socket, &mut items));
                match sending.await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(Close::SlowConsumer),
                }
            }
            message = socket.next(), if idle => {
                session.heard();
                match message {
                    Some(Ok(Message::Text(text))) => {
                        command = begin(gateway, session, &text);
                        if command.is_none() {
                            return Some(Close::InvalidFrame);
                        }
                    }
                    Some(Ok(Message::Binary(_))) => return Some(Close::InvalidFrame),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_))) | None => return None,
                    Some(Err(error)) => return Some(broken(&error)),
                }
            }
        }
    }
}

/// The command that `text` is; none when it is none.
fn begin(gateway: &Arc<Gateway>, session: &Arc<Session>, text: &str) -> Option<Pending> {
    let frame: Frame<'_> = serde_json::from_str(text).ok()?;
    let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
    let (ack, data) = (frame.ack, frame.data().to_owned());
    let name = frame.event.into_owned();
    Some(Box::pin(async move {
        (ack, gateway.command(&session, &name, &data).await)
    }))
}

fn answer(session: &Session, ack: Option<u64>, outcome: Result<Arc<RawJson>, Failure>) {
    match (ack, outcome) {
        (Some(ack), outcome) => session.outbox.put(Item::Reply { ack, outcome }),
        (None, Err(failure)) => session
            .outbox
            .event(&Arc::new(protocol::event("error", &failure))),
        (None, Ok(_)) => {}
    }
}

async fn send_all(socket: &mut WebSocket, items: &mut Vec<Item>) -> Result<(), axum::Error> {
    for item in items.drain(..) {
        socket.feed(encode(item)).await?;
    }
    *items = Vec::new(); // an idle connection keeps no memory
    socket.flush().await
}

fn encode(item: Item) -> Message {
    match item {
        Item::Event(event) => Message::Text(event.frame()),
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
    }
}

/// What a broken connection is closed with: it may have been the client's doing.
fn broken(error: &axum::Error) -> Close {
    let text = error.to_string();
    if text.contains("too large") || text.contains("too long") || text.contains("too big") {
        return Close::FrameTooLarge;
    }
    Close::InvalidFrame
}

/// Says why, and waits a moment for the client to have read it.
async fn finish(socket: &mut WebSocket, close: Close) {
    metrics::counter!("backscroll_realtime_closed_total", "reason" => close.name()).increment(1);
    let message = Message::Close(Some(CloseFrame {
        code: close.code(),
        reason: close.name().into(),
    }));
    let goodbye = async {
        if socket.send(message).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is what an idle connection holds, besides its buffers.
    #[test]
    fn a_connection_s_task_is_small() {
        fn size<F: Future>(_: impl Fn(Arc<Gateway>, Place, WebSocket, Credentials) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        assert!(size < 2048, "{size} bytes");
    }
}
