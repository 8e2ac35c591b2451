//! The sessions behind the namespaces: one task each, from the packet that enters to the packet that leaves.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use backscroll_shard::model::{RawJson, from_object};
use engineioxide::Str;
use serde::Serialize;

use super::application::{Application, IncomingEvent, Line, Malformed, Unsent};
use super::inbox::Inbox;
use super::packet::{self, NAMESPACE};
use crate::admission::ConnectionPermit;
use crate::door::{self, Command, Dialect, Door, End, WRITE_TIMEOUT};
use crate::gateway::Gateway;
use crate::legacy::namespaces;
use crate::metrics;
use crate::outbox::Item;
use crate::protocol::commands::in_fields;
use crate::protocol::{Authenticate, Close, Failure};
use crate::session::Session;

use super::first_request;

/// How long sending the reason for an end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client with long polling has to fetch the reason.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);

/// After how many milliseconds a client that may not enter now may ask again.
const ENTER_AGAIN_MS: u64 = 5000;

/// The namespaces of the API and of older front-ends.
pub struct Chat {
    gateway: Arc<Gateway>,
    namespaces: Vec<&'static str>,
}

impl Chat {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        let namespaces = std::iter::once(NAMESPACE).chain(namespaces::names());
        Self {
            gateway,
            namespaces: namespaces.collect(),
        }
    }
}

/// A client in a namespace, or one that asks to enter.
#[derive(Clone)]
pub struct Participant(Arc<Inbox>);

impl Application for Chat {
    type Participant = Participant;
    type Permit = ConnectionPermit;

    fn namespaces(&self) -> &[&'static str] {
        &self.namespaces
    }

    fn permit(&self, request: &Parts) -> Option<ConnectionPermit> {
        first_request::permit(request)
    }

    fn enter(self: &Arc<Self>, line: Line<Self>, auth: &str) -> Participant {
        let inbox = Arc::new(Inbox::new(self.gateway.settings().queue_bytes));
        let participant = Participant(Arc::clone(&inbox));
        let (gateway, auth) = (Arc::clone(&self.gateway), auth.to_owned());
        // Without room for it the client gets no answer, and tries again.
        let _ = self
            .gateway
            .session_tasks()
            .spawn(async move { serve(&gateway, &line, &inbox, &auth).await });
        participant
    }

    fn event(&self, Participant(inbox): &Participant, event: IncomingEvent<'_>) {
        let Some((name, data)) = event.arguments.split_first() else {
            return;
        };
        let Ok(name) = serde_json::from_str::<Cow<'_, str>>(name.get()) else {
            return;
        };
        inbox.put(Command {
            name: name.into(),
            data: data.first().map_or("{}", |data| data.get()).into(),
            ack: event.ack,
            binary: !event.attachments.is_empty(),
        });
    }

    fn left(&self, Participant(inbox): &Participant) {
        inbox.end(None);
    }

    fn malformed(&self, Participant(inbox): &Participant, why: Malformed) -> bool {
        inbox.end(Some(match why {
            Malformed::Form => Close::InvalidFrame,
            Malformed::Length => Close::FrameTooLarge,
        }));
        true
    }

    fn max_packet(&self) -> usize {
        self.gateway.settings().max_frame
    }
}

/// Serves a client in one namespace until it ends.
async fn serve(gateway: &Arc<Gateway>, line: &Line<Chat>, inbox: &Inbox, auth: &str) {
    // What happens once is on the heap, so that a session's task is no larger than what stays.
    let session = match Box::pin(enter(gateway, auth)).await {
        Ok(session) => session,
        Err(failure) => return Box::pin(refuse(line, &failure)).await,
    };
    let dialect = namespaces::dialect(line.namespace());
    let mut door = ChatDoor {
        line,
        inbox,
        session: &session,
        dialect: dialect.as_deref(),
    };
    door::serve(gateway, &session, &mut door, dialect.as_ref()).await;
}

/// Authenticates the client and opens its session.
async fn enter(gateway: &Arc<Gateway>, auth: &str) -> Result<Arc<Session>, Failure> {
    let unauthenticated = |message: String| Failure {
        code: Close::Unauthenticated.name(),
        message,
        retry_after_ms: None,
        rule: None,
    };
    let auth = if auth.is_empty() { "{}" } else { auth };
    let Authenticate { token, resume } = from_object(auth).map_err(|error| {
        let what = in_fields::<Authenticate>(auth, &error);
        unauthenticated(format!("auth: {what}; send {{token, resume?}}"))
    })?;
    let identity = gateway.authenticate(&token).await;
    let identity = identity.map_err(|(_, failure)| failure)?;
    let opened = gateway.open(identity, resume, false).await;
    opened.map_err(|close| Failure {
        code: close.name(),
        message: close.meaning().to_owned(),
        retry_after_ms: (!close.is_final()).then_some(ENTER_AGAIN_MS),
        rule: None,
    })
}

async fn refuse(line: &Line<Chat>, failure: &Failure) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        code: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    }
    let data = RawJson::of(&Data {
        code: failure.code,
        retry_after_ms: failure.retry_after_ms,
    });
    line.refuse(&failure.message, data.get()).await;
}

/// A client in a namespace as a [`Door`].
struct ChatDoor<'a> {
    line: &'a Line<Chat>,
    inbox: &'a Inbox,
    session: &'a Session,
    dialect: Option<&'a dyn Dialect>,
}

impl ChatDoor<'_> {
    fn encode(&self, item: Item) -> Option<Str> {
        match item {
            Item::Event(event) => match self.dialect {
                None => Some(event.packet()),
                Some(dialect) => dialect.write(&event, &self.session.user).map(Str::from),
            },
            Item::Reply { ack, outcome } => {
                let namespace = self.line.namespace();
                let text = match outcome {
                    Ok(data) => packet::answer(namespace, ack, data.get()),
                    Err(failure) => {
                        let failure = format!(r#"{{"error":{}}}"#, RawJson::of(&failure).get());
                        packet::answer(namespace, ack, &failure)
                    }
                };
                Some(text.into())
            }
            Item::Ping => None, // Engine.IO pings
        }
    }
}

impl Door for ChatDoor<'_> {
    async fn open(&mut self) -> Result<(), End> {
        let sid = format!("{:016x}", self.session.id);
        self.line.accept(&sid).await.map_err(|_| End::Gone)
    }

    async fn next_command(&mut self) -> Result<Option<Command>, End> {
        match self.inbox.next().await {
            Ok(command) => Ok(Some(command)),
            Err(Some(close)) => Err(close.into()),
            Err(None) => Err(End::Gone),
        }
    }

    fn next_same(&mut self, name: &str) -> Option<Command> {
        self.inbox
            .next_if(|next| *next.name == *name && !next.binary)
    }

    async fn send(&mut self, items: Vec<Item>) -> Result<(), End> {
        for item in items {
            let Some(packet) = self.encode(item) else {
                continue;
            };
            if self.inbox.ended() {
                return Ok(()); // the next command is the reason
            }
            match self.line.send(packet, WRITE_TIMEOUT).await {
                Ok(()) => {}
                Err(Unsent::Gone) => return Err(End::Gone),
                Err(Unsent::Stalled) => return Err(Close::SlowConsumer.into()),
            }
        }
        Ok(())
    }

    async fn close(&mut self, end: End) {
        if let End::Close(close) = end {
            farewell(self.line, self.inbox, close).await;
        }
        self.line.leave();
    }
}

/// Sends the reason, and ends the connection so that the client's library connects again, or does not.
async fn farewell(line: &Line<Chat>, inbox: &Inbox, close: Close) {
    #[derive(Serialize)]
    struct Reason {
        code: &'static str,
        message: &'static str,
    }
    metrics::CLOSED.with([close.name()]).increment(1);
    let reason = RawJson::of(&Reason {
        code: close.name(),
        message: close.meaning(),
    });
    let packet = packet::event(line.namespace(), "error", reason.get());
    let sent = line.send(packet.into(), CLOSE_TIMEOUT).await.is_ok();
    inbox.end(None);
    line.leave(); // first, as the client may ask again as soon as it is out
    if sent && close.is_final() {
        let packet = packet::disconnected(line.namespace());
        let _ = line.send(packet.into(), CLOSE_TIMEOUT).await;
    }
    if sent && line.is_polling() {
        tokio::time::sleep(FETCH_TIMEOUT).await;
    }
    if close.is_final() {
        line.close_when_idle();
    } else {
        line.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every session has one of these as long as it lasts.
    #[test]
    fn what_a_session_holds_is_small() {
        fn size<F: Future>(
            _: impl Fn(&'static Arc<Gateway>, &'static Line<Chat>, &'static Inbox) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size(|gateway, line, inbox| serve(gateway, line, inbox, ""));
        assert!(size < 1536, "{size} bytes");
    }
}
