//! The sessions behind the namespaces: one task each, from the first packet to the last.

use std::borrow::Cow;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::lane::TOGETHER_MAX;
use backscroll_shard::model::RawJson;
use engineioxide::Str;

use super::dialect::{DIALECTS, Dialect};
use super::inbox::{Command, Inbox};
use super::packet::NAMESPACE;
use super::server::{Application, Event, Line, Malformed, Unsent, WRITE_TIMEOUT};
use super::{Admitted, packet};
use crate::admission::ConnectionPermit;
use crate::client_event::ClientEvent;
use crate::gateway::Gateway;
use crate::outbox::Item;
use crate::protocol::commands::BatchedCommand;
use crate::protocol::events::EventName;
use crate::protocol::{Authenticate, Close, Failure};
use crate::session::Session;

/// Most items that are taken from the queue at once.
const FLUSH_ITEMS: usize = 2 * TOGETHER_MAX;
/// How many more commands may be refused than done, before a client is cut off.
const REFUSED_MAX: u32 = 100;
/// How long the reason for an end may take to be sent.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client with long polling has to fetch the reason.
const FETCH: Duration = Duration::from_secs(1);

/// The namespaces of the API and of older front-ends.
pub struct Chat {
    gateway: Arc<Gateway>,
    namespaces: Vec<&'static str>,
}

impl Chat {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        let dialects = DIALECTS.iter().map(|dialect| dialect.namespace);
        let namespaces = std::iter::once(NAMESPACE).chain(dialects).collect();
        Self {
            gateway,
            namespaces,
        }
    }
}

/// A namespace that a client is in, or asks to enter.
#[derive(Clone)]
pub struct Member(Arc<Inbox>);

impl Application for Chat {
    type Member = Member;
    type Place = ConnectionPermit;

    fn namespaces(&self) -> &[&'static str] {
        &self.namespaces
    }

    fn place(&self, request: &Parts) -> Option<ConnectionPermit> {
        request
            .extensions
            .get::<Admitted>()
            .and_then(Admitted::take)
    }

    fn enter(self: &Arc<Self>, line: Line<Self>, auth: &str) -> Member {
        let inbox = Arc::new(Inbox::new(self.gateway.settings().queue_bytes));
        let member = Member(Arc::clone(&inbox));
        let (gateway, auth) = (Arc::clone(&self.gateway), auth.to_owned());
        self.gateway
            .tasks()
            .spawn(async move { serve(&gateway, &line, &inbox, &auth).await });
        member
    }

    fn event(&self, Member(inbox): &Member, event: Event<'_>) {
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

    fn left(&self, Member(inbox): &Member) {
        inbox.end(None);
    }

    fn malformed(&self, Member(inbox): &Member, why: Malformed) -> bool {
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

/// Serves one namespace of a client until it ends.
async fn serve(gateway: &Arc<Gateway>, line: &Line<Chat>, inbox: &Inbox, auth: &str) {
    // What comes once is on the heap, so that a session's task is no larger than what stays.
    let session = match Box::pin(enter(gateway, auth)).await {
        Ok(session) => session,
        Err(failure) => {
            #[derive(serde::Serialize)]
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
            return Box::pin(line.refuse(&failure.message, data.get())).await;
        }
    };
    let mut conversation = Conversation {
        gateway,
        session: Arc::clone(&session),
        line,
        dialect: Dialect::of(line.namespace()),
        refused: 0,
    };
    let ending = Ending(gateway, session);
    let close = conversation.run(inbox).await;
    drop(ending);
    if let Some(close) = close {
        Box::pin(farewell(line, inbox, close)).await;
    }
    line.leave();
}

/// Ends the session, also where its task is dropped.
struct Ending<'a>(&'a Arc<Gateway>, Arc<Session>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

/// Finds out who it is, and opens a session.
async fn enter(gateway: &Arc<Gateway>, auth: &str) -> Result<Arc<Session>, Failure> {
    let unauthenticated = |message: String| Failure {
        code: Close::Unauthenticated.name(),
        message,
        retry_after_ms: None,
    };
    let auth = if auth.is_empty() { "{}" } else { auth };
    let Authenticate { token, resume } =
        serde_json::from_str(auth).map_err(|error| unauthenticated(format!("auth: {error}")))?;
    let identity = gateway.authenticate(&token).await;
    let identity = identity.map_err(|(_, failure)| failure)?;
    let opened = gateway.open(identity, resume, false).await;
    opened.map_err(|close| Failure {
        code: close.name(),
        message: close.meaning().to_owned(),
        retry_after_ms: None,
    })
}

/// What came of a command: the number of its answer, the event that brings the answer where there is no number, and the
/// answer.
type Outcome = (
    Option<u64>,
    Option<&'static str>,
    Result<Arc<RawJson>, Failure>,
);
type Pending = Pin<Box<dyn Future<Output = (Vec<Outcome>, Last)> + Send>>;
/// Whom the last command named, and the conversation with them.
type Last = Option<(UserId, ConversationId)>;

struct Conversation<'a> {
    gateway: &'a Arc<Gateway>,
    session: Arc<Session>,
    line: &'a Line<Chat>,
    dialect: Option<&'static Dialect>,
    refused: u32,
}

impl Conversation<'_> {
    /// Takes commands and sends what waits, until one side ends it. Gives the reason when it is ours.
    async fn run(&mut self, inbox: &Inbox) -> Option<Close> {
        let sid = format!("{:016x}", self.session.id);
        if self.line.accept(&sid).await.is_err() {
            return None;
        }
        if let Some(dialect) = self.dialect {
            Box::pin(dialect.begin(self.gateway, &self.session)).await;
        }
        let session = Arc::clone(&self.session);
        let mut items: Vec<Item> = Vec::new();
        let mut command: Option<Pending> = None;
        let mut last: Last = None;
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
                (outcomes, named) = done => {
                    command = None;
                    last = named;
                    for outcome in outcomes {
                        if let Some(close) = self.answer(outcome) {
                            return Some(close);
                        }
                    }
                    tokio::task::yield_now().await; // as the native door does
                }
                waiting = session.outbox.next(&mut items, FLUSH_ITEMS) => {
                    let sent = match waiting {
                        Ok(()) => self.send_all(&mut items, inbox).await,
                        Err(close) => return Some(close),
                    };
                    match sent {
                        Ok(()) => {}
                        Err(Unsent::Gone) => return None,
                        Err(Unsent::Stalled) => return Some(Close::SlowConsumer),
                    }
                }
                next = inbox.next(), if idle => match next {
                    Ok(next) => {
                        session.note_activity();
                        command = Some(self.begin(next, last.take(), inbox));
                    }
                    Err(close) => return close,
                }
            }
        }
    }

    fn begin(&self, command: Command, mut last: Last, inbox: &Inbox) -> Pending {
        let (gateway, session) = (Arc::clone(self.gateway), Arc::clone(&self.session));
        let dialect = self.dialect;
        let batched = BatchedCommand::parse(&command.name);
        if let Some(batched) = batched.filter(|_| dialect.is_none() && !command.binary) {
            // What has come one right after the other is done together.
            let Command {
                name, data, ack, ..
            } = command;
            let (mut acks, mut all) = (vec![ack], vec![data]);
            while all.len() < TOGETHER_MAX
                && let Some(next) = inbox.next_if(|next| next.name == name && !next.binary)
            {
                acks.push(next.ack);
                all.push(next.data);
            }
            return Box::pin(async move {
                let answers = gateway.commands().run_batch(&session, batched, &all).await;
                let outcomes = acks.into_iter().zip(answers);
                let outcomes = outcomes.map(|(ack, answer)| (ack, None, answer));
                (outcomes.collect(), last)
            });
        }
        Box::pin(async move {
            let Command {
                name,
                data,
                ack,
                binary,
            } = command;
            let (event, outcome) = if binary {
                (None, Err(Failure::invalid("no command takes binary data")))
            } else if let Some(dialect) = dialect {
                let asked = (&*name, &*data);
                Box::pin(dialect.command(&gateway, &session, &mut last, asked)).await
            } else {
                (None, gateway.commands().run(&session, &name, &data).await)
            };
            (vec![(ack, event, outcome)], last)
        })
    }

    fn answer(&mut self, (ack, event, outcome): Outcome) -> Option<Close> {
        let limited = outcome
            .as_ref()
            .is_err_and(|failure| failure.code == "rate_limited");
        self.refused = if limited {
            self.refused + 1
        } else {
            self.refused.saturating_sub(1)
        };
        if self.refused > REFUSED_MAX {
            return Some(Close::RateLimited);
        }
        let outbox = &self.session.outbox;
        match (ack, outcome) {
            (Some(ack), outcome) => outbox.put(Item::Reply { ack, outcome }),
            (None, Err(failure)) => {
                outbox.put_event(&Arc::new(ClientEvent::new(EventName::Error, &failure)))
            }
            (None, Ok(data)) => {
                if let Some(event) = event {
                    outbox.put_event(&Arc::new(ClientEvent::named(event, data)));
                }
            }
        }
        None
    }

    async fn send_all(&self, items: &mut Vec<Item>, inbox: &Inbox) -> Result<(), Unsent> {
        for item in items.drain(..) {
            if let (Some(dialect), Item::Event(event)) = (self.dialect, &item) {
                Box::pin(dialect.heard(self.gateway, &self.session, event)).await;
            }
            let Some(packet) = self.encode(item) else {
                continue;
            };
            if inbox.ended() {
                return Ok(()); // the reason is found there
            }
            self.line.send(packet, WRITE_TIMEOUT).await?;
        }
        *items = Vec::new(); // an idle connection keeps no memory
        Ok(())
    }

    fn encode(&self, item: Item) -> Option<Str> {
        match item {
            Item::Event(event) => match self.dialect {
                None => Some(event.packet()),
                Some(dialect) => dialect.packet(&event, &self.session.user).map(Str::from),
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
            Item::Ping => None, // Engine.IO asks for signs of life
        }
    }
}

/// Says why, and ends it so that the client comes back, or does not.
async fn farewell(line: &Line<Chat>, inbox: &Inbox, close: Close) {
    metrics::counter!("backscroll_realtime_closed_total", "reason" => close.name()).increment(1);
    #[derive(serde::Serialize)]
    struct Reason {
        code: &'static str,
        message: &'static str,
    }
    let reason = RawJson::of(&Reason {
        code: close.name(),
        message: close.meaning(),
    });
    let packet = packet::event(line.namespace(), "error", reason.get());
    let told = line.send(packet.into(), FAREWELL).await.is_ok();
    inbox.end(None);
    line.leave(); // first, as the client may ask again as soon as it is out
    if told && close.is_final() {
        let packet = packet::disconnected(line.namespace());
        let _ = line.send(packet.into(), FAREWELL).await;
    }
    if told && line.is_polling() {
        tokio::time::sleep(FETCH).await;
    }
    if close.is_final() {
        line.close_when_alone();
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
