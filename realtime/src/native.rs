//! The native door: JSON text frames over WebSocket (RFC 6455), as `PROTOCOL.md` describes them.
//!
//! One task a connection. It reads the next command once the one before is done, so that a client's commands are done in
//! order and a flood waits in the client's own buffers; meanwhile what the client is told goes out. Sends that have come
//! one right after the other are one command in this: they are done together; so are joins. A write that makes
//! no progress for [`WRITE_TIMEOUT`] ends the connection, as a full queue does. Buffers are small, as most connections are
//! idle.
//!
//! Older front-ends are known by where they put their token, and are told in [their own words](plain).

mod plain;

use std::borrow::Cow;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{
    CloseCode, CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code,
};
use backscroll_shard::lane::TOGETHER_MAX;
use backscroll_shard::model::RawJson;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use crate::admission::ConnectionPermit;
use crate::client_event::ClientEvent;
use crate::edge::{AUTHENTICATE_WITHIN, Identity};
use crate::gateway::Gateway;
use crate::opening;
use crate::outbox::Item;
use crate::protocol::commands::BatchedCommand;
use crate::protocol::events::EventName;
use crate::protocol::{Authenticate, Close, Failure};
use crate::session::Session;

pub use self::plain::token_in;

/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most items in one flush: the answers to sends that came together, and what everybody is told of them.
const FLUSH_ITEMS: usize = 2 * TOGETHER_MAX;
/// How many more commands may be refused than done, before a client is cut off.
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
    /// By a token in the address ([`token_in`]), which is to be checked: an older front-end.
    Address(String),
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

/// In whose words a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Api,
    Plain,
}

impl Words {
    fn frame(self, event: &ClientEvent) -> Utf8Bytes {
        match self {
            Self::Api => event.frame(),
            Self::Plain => plain::frame(event),
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve(
    gateway: Arc<Gateway>,
    permit: ConnectionPermit,
    mut socket: WebSocket,
    credentials: Credentials,
) {
    // What comes once is on the heap, so that a connection's task is no larger than what stays.
    let (session, words) = match Box::pin(enter(&gateway, &mut socket, credentials)).await {
        Ok(entered) => entered,
        Err(end) => return Box::pin(finish(&mut socket, end)).await,
    };
    let end = converse(&gateway, &session, &mut socket, words).await;
    gateway.end(&session);
    Box::pin(finish(&mut socket, end)).await;
    drop(permit);
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// For a reason of ours.
    Ours(Close),
    /// The client broke RFC 6455, which has a code for that.
    Broken(CloseCode),
    /// The client left, or the connection broke.
    Gone,
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Ours(close)
    }
}

/// Finds out who it is and in whose words they speak, and opens a session.
async fn enter(
    gateway: &Arc<Gateway>,
    socket: &mut WebSocket,
    credentials: Credentials,
) -> Result<(Arc<Session>, Words), End> {
    let (mut words, mut resume) = (Words::Api, None);
    let identity = match credentials {
        Credentials::Known(identity) => identity,
        Credentials::Token(token) => authenticate(gateway, socket, &token, words).await?,
        Credentials::Address(token) => {
            words = Words::Plain;
            authenticate(gateway, socket, &token, words).await?
        }
        Credentials::FirstFrame => {
            let first = tokio::time::timeout(AUTHENTICATE_WITHIN, first_frame(socket)).await;
            let (first, spoken) = first.map_err(|_| Close::Unauthenticated)??;
            (words, resume) = (spoken, first.resume);
            authenticate(gateway, socket, &first.token, words).await?
        }
    };
    Ok((gateway.open(identity, resume, true).await?, words))
}

async fn authenticate(
    gateway: &Gateway,
    socket: &mut WebSocket,
    token: &str,
    words: Words,
) -> Result<Identity, End> {
    match gateway.authenticate(token).await {
        Ok(identity) => Ok(identity),
        Err((close, failure)) => {
            let text = words.frame(&ClientEvent::new(EventName::Error, &failure));
            let _ = tokio::time::timeout(WRITE_TIMEOUT, socket.send(Message::Text(text))).await;
            Err(close.into())
        }
    }
}

async fn first_frame(socket: &mut WebSocket) -> Result<(Authenticate, Words), End> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let Ok(frame) = serde_json::from_str::<Frame<'_>>(&text) else {
                    let first = plain::Command::credentials(&text).ok_or(Close::InvalidFrame)?;
                    return Ok((first, Words::Plain));
                };
                if frame.event != "authenticate" {
                    return Err(Close::Unauthenticated.into());
                }
                let first = serde_json::from_str(frame.data()).map_err(|_| Close::InvalidFrame)?;
                return Ok((first, Words::Api));
            }
            Some(Ok(Message::Binary(_))) => return Err(Close::InvalidFrame.into()),
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

/// What came of a command, and the number of its answer.
type Outcome = (Option<u64>, Result<Arc<RawJson>, Failure>);
type Pending = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send>>;
/// What was read before its turn.
type Ahead = Option<Option<Result<Message, axum::Error>>>;

/// Takes commands and sends what waits, until one side ends it.
async fn converse(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    socket: &mut WebSocket,
    words: Words,
) -> End {
    if words == Words::Plain {
        Box::pin(opening::begin(gateway, session)).await;
    }
    let mut items: Vec<Item> = Vec::new();
    let mut command: Option<Pending> = None;
    let mut ahead: Ahead = None;
    let mut refused = 0_u32;
    loop {
        let idle = command.is_none();
        let done = async {
            match command.as_mut() {
                Some(command) => command.await,
                None => pending().await,
            }
        };
        tokio::select! {
            outcomes = done => {
                command = None;
                for (ack, outcome) in outcomes {
                    let limited = outcome.as_ref().is_err_and(|failure| failure.code == "rate_limited");
                    refused = if limited { refused + 1 } else { refused.saturating_sub(1) };
                    if refused > REFUSED_MAX {
                        return Close::RateLimited.into();
                    }
                    answer(session, ack, outcome);
                }
                // What a command made is told to who made it, too: a moment later, in one write with the answer.
                tokio::task::yield_now().await;
            }
            waiting = session.outbox.next(&mut items, FLUSH_ITEMS) => {
                if let Err(close) = waiting {
                    return close.into();
                }
                if words == Words::Plain {
                    Box::pin(open_news(gateway, session, &items)).await;
                }
                let sending = tokio::time::timeout(WRITE_TIMEOUT, send_all(socket, &mut items, words));
                match sending.await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return End::Gone,
                    Err(_) => return Close::SlowConsumer.into(),
                }
            }
            message = next(socket, &mut ahead), if idle => {
                session.note_activity();
                match message {
                    Some(Ok(Message::Text(text))) => {
                        command = begin(gateway, session, &text, words, |name| behind(socket, &mut ahead, name));
                        if command.is_none() {
                            return Close::InvalidFrame.into();
                        }
                    }
                    Some(Ok(Message::Binary(_))) => return Close::InvalidFrame.into(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_))) | None => return End::Gone,
                    Some(Err(error)) => return broken(error),
                }
            }
        }
    }
}

/// What was read before its turn, or else what comes.
async fn next(socket: &mut WebSocket, ahead: &mut Ahead) -> Option<Result<Message, axum::Error>> {
    match ahead.take() {
        Some(message) => message,
        None => socket.next().await,
    }
}

/// Another command of that name, if one has come already: the number of its answer, and its data.
fn behind(
    socket: &mut WebSocket,
    ahead: &mut Ahead,
    name: &str,
) -> Option<(Option<u64>, Box<str>)> {
    let next = socket.next().now_or_never()?;
    if let Some(Ok(Message::Text(text))) = &next
        && let Ok(frame) = serde_json::from_str::<Frame<'_>>(text)
        && frame.event == name
    {
        return Some((frame.ack, frame.data().into()));
    }
    *ahead = Some(next);
    None
}

/// The command that `text` is; none when it is none. One of [`BatchedCommand`] takes those of its name along that `more` gives.
fn begin(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    text: &str,
    words: Words,
    mut more: impl FnMut(&str) -> Option<(Option<u64>, Box<str>)>,
) -> Option<Pending> {
    let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
    if words == Words::Plain {
        let command = plain::Command::parse(text)?;
        return Some(Box::pin(async move {
            vec![(command.ack, command.perform(&gateway, &session).await)]
        }));
    }
    let frame: Frame<'_> = serde_json::from_str(text).ok()?;
    let (ack, data): (_, Box<str>) = (frame.ack, frame.data().into());
    let name = frame.event.into_owned();
    if let Some(batched) = BatchedCommand::parse(&name) {
        let (mut acks, mut all) = (vec![ack], vec![data]);
        while all.len() < TOGETHER_MAX
            && let Some((ack, data)) = more(&name)
        {
            acks.push(ack);
            all.push(data);
        }
        return Some(Box::pin(async move {
            let answers = gateway.commands().run_batch(&session, batched, &all).await;
            acks.into_iter().zip(answers).collect()
        }));
    }
    Some(Box::pin(async move {
        vec![(ack, gateway.commands().run(&session, &name, &data).await)]
    }))
}

/// Opens conversations that `items` say are new in the list.
async fn open_news(gateway: &Gateway, session: &Arc<Session>, items: &[Item]) {
    for item in items {
        if let Item::Event(event) = item {
            opening::heard(gateway, session, event).await;
        }
    }
}

fn answer(session: &Session, ack: Option<u64>, outcome: Result<Arc<RawJson>, Failure>) {
    match (ack, outcome) {
        (Some(ack), outcome) => session.outbox.put(Item::Reply { ack, outcome }),
        (None, Err(failure)) => session
            .outbox
            .put_event(&Arc::new(ClientEvent::new(EventName::Error, &failure))),
        (None, Ok(_)) => {}
    }
}

async fn send_all(
    socket: &mut WebSocket,
    items: &mut Vec<Item>,
    words: Words,
) -> Result<(), axum::Error> {
    for item in items.drain(..) {
        socket.feed(encode(item, words)).await?;
    }
    *items = Vec::new(); // an idle connection keeps no memory
    socket.flush().await
}

fn encode(item: Item, words: Words) -> Message {
    match item {
        Item::Event(event) => Message::Text(words.frame(&event)),
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

/// What a connection that cannot be read any more is closed with: it may have been the client's doing.
fn broken(error: axum::Error) -> End {
    let Ok(error) = error.into_inner().downcast::<tungstenite::Error>() else {
        return End::Gone;
    };
    match *error {
        tungstenite::Error::Capacity(_) => Close::FrameTooLarge.into(),
        tungstenite::Error::Utf8(_) => End::Broken(close_code::INVALID),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        tungstenite::Error::Protocol(_) => End::Broken(close_code::PROTOCOL),
        _ => End::Gone,
    }
}

/// Says why, and waits a moment for the client to have read it.
async fn finish(socket: &mut WebSocket, end: End) {
    let (code, reason) = match end {
        End::Ours(close) => (close.code(), close.name()),
        End::Broken(code) => (code, "protocol_error"),
        End::Gone => return,
    };
    metrics::counter!("backscroll_realtime_closed_total", "reason" => reason).increment(1);
    let message = Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
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
        fn size<F: Future>(
            _: impl Fn(Arc<Gateway>, ConnectionPermit, WebSocket, Credentials) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        assert!(size < 2048, "{size} bytes");
    }
}
