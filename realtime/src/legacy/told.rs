//! Keeps what older front-ends were told: they send no `mark_delivered`, so their sessions move the delivered watermark.
//!
//! A message counts as told when the connection lasts [`KEPT_AFTER`] after it was written, or the client closed the connection in
//! order. After any other end the user's next session is told again what was written in the last moments: at least once, never less.
//! A node that dies leaves watermarks that are too low, with the same effect.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::Caller;
use futures_util::FutureExt as _;
use serde::Deserialize;
use tokio::time::Instant;

use crate::command::COMMAND_TIMEOUT;
use crate::gateway::Gateway;
use crate::outbox::Item;
use crate::protocol::events::EventName;
use crate::session::Session;

/// How long after it was written a message counts as told. Several namespaces of one front-end connect within less, so that each of
/// them is told what was missed.
const KEPT_AFTER: Duration = Duration::from_secs(5);

/// The newest message of each conversation that was written and is not in the watermark yet.
#[derive(Default)]
pub(crate) struct Told {
    newest: BTreeMap<ConversationId, Seq>,
    due: Option<Instant>,
    marking: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Told {
    /// Notes the messages among `items`, which are being written.
    pub(crate) fn note(&mut self, items: &[Item]) {
        for item in items {
            let Item::Event(event) = item else { continue };
            if event.name() != EventName::NewMessage.name() {
                continue;
            }
            let Ok(new) = serde_json::from_str::<NewMessage>(event.data()) else {
                continue;
            };
            let newest = self.newest.entry(new.conversation_id).or_default();
            *newest = new.message.seq.max(*newest);
            self.due.get_or_insert_with(|| Instant::now() + KEPT_AFTER);
        }
    }

    /// Moves the watermarks when it is time to. The future may be dropped at any time.
    pub(crate) async fn keep(&mut self, gateway: &Arc<Gateway>, session: &Arc<Session>) {
        let Some(due) = self.due else {
            return pending().await;
        };
        if self.marking.is_none() {
            Box::pin(tokio::time::sleep_until(due)).await;
            self.start(gateway, session);
        }
        if let Some(marking) = self.marking.as_mut() {
            marking.await;
        }
        self.marking = None;
        self.due = (!self.newest.is_empty()).then(|| Instant::now() + KEPT_AFTER);
    }

    /// Moves the watermarks now: the client closes the connection in order.
    pub(crate) async fn finish(mut self, gateway: &Arc<Gateway>, session: &Arc<Session>) {
        if let Some(marking) = self.marking.take() {
            marking.await;
        }
        self.start(gateway, session);
        if let Some(marking) = self.marking {
            marking.await;
        }
    }

    fn start(&mut self, gateway: &Arc<Gateway>, session: &Arc<Session>) {
        let told = std::mem::take(&mut self.newest);
        let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
        self.marking = Some(Box::pin(
            async move { mark(&gateway, &session, told).await },
        ));
    }
}

async fn mark(gateway: &Gateway, session: &Session, told: BTreeMap<ConversationId, Seq>) {
    let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
    for (id, seq) in told {
        let marking = gateway.store().mark_delivered(&caller, id, Some(seq));
        match marking.boxed().await {
            Ok(_) | Err(Error::NotMember) => {}
            Err(error) => tracing::debug!(%error, "messages will be told again"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewMessage {
    conversation_id: ConversationId,
    message: MessagePlace,
}

#[derive(Deserialize)]
struct MessagePlace {
    seq: Seq,
}
