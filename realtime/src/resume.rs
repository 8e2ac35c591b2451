//! Resumes sessions: follows the list, opens the conversations again, and replays what the client missed.
//!
//! For the list and for each conversation the client receives all that it missed, in order, or a `resync` that names it: never
//! a part (INV-PUSH). A conversation whose shard does not answer is opened as soon as it does, with a `resync`.

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev};
use backscroll_shard::sync::{parse_cursor, to_cursor};
use tokio_util::sync::CancellationToken;

use crate::client_event::ClientEvent;
use crate::hub::Hub;
use crate::hub::joining::Joined;
use crate::hub::log_reader::ReplayBudget;
use crate::protocol::Resume;
use crate::session::Session;

/// How long to wait before a conversation that could not be opened is tried again, on average.
const RETRY: Duration = Duration::from_secs(3);

/// What came of resuming.
pub(crate) struct Resumed {
    /// The cursor after which the client receives the changes of its list; none when the list has to be loaded.
    pub(crate) cursor: Option<String>,
    /// Whether nothing that the client missed was refused.
    pub(crate) whole: bool,
    /// Conversations whose shards do not answer: see [`join_later`].
    pub(crate) unanswered: Vec<ConversationId>,
}

/// Follows the list of the session's user and opens the conversations of `resume`. Missed changes wait in the session's queue
/// then, a `resync` before them.
pub(crate) async fn resume(hub: &Hub, session: &Arc<Session>, resume: Resume) -> Resumed {
    let known = resume.cursor.as_deref().map(parse_cursor);
    let (wanted, malformed) = (known.is_some(), matches!(known, Some(Err(_))));
    let rev = hub.follow_list(session, known.and_then(Result::ok)).await;
    let rev = rev.filter(|_| !malformed);
    let reload_list = wanted && rev.is_none();
    let (mut refused, mut unanswered) = (Vec::new(), Vec::new());
    let budget = ReplayBudget::full();
    let joins = resume.conversations.into_iter().map(|(id, rev)| {
        let budget = &budget;
        async move { (id, hub.join(session, id, Some(rev), budget).await) }
    });
    for (id, joined) in futures_util::future::join_all(joins).await {
        match joined {
            Ok(Joined::Whole(_)) => {}
            Ok(Joined::Refused(head)) => refused.push(head),
            Err(Error::NotMember) => {
                let left = ClientEvent::left_conversation(id);
                session.outbox.put_event(&Arc::new(left));
            }
            Err(error) => {
                tracing::warn!(%error, "a conversation cannot be resumed yet");
                unanswered.push(id);
            }
        }
    }
    let whole = !reload_list && refused.is_empty() && unanswered.is_empty();
    if reload_list || !refused.is_empty() {
        // Ahead of the events that these conversations have queued already.
        let resync = ClientEvent::resync(refused, reload_list);
        session.outbox.put_first(resync);
    }
    Resumed {
        cursor: rev.map(to_cursor),
        whole,
        unanswered,
    }
}

/// Opens conversations whose shards did not answer as soon as they do, until `closing`. The client has to load them then.
pub(crate) async fn join_later(
    hub: Arc<Hub>,
    session: Arc<Session>,
    mut ids: Vec<ConversationId>,
    closing: CancellationToken,
) {
    while !ids.is_empty() && session.outbox.closed().is_none() {
        let pause = tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5)));
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let mut unanswered = Vec::new();
        for id in ids {
            let event = match hub
                .join(&session, id, Some(Rev(0)), &ReplayBudget::none())
                .await
            {
                Ok(Joined::Whole(head) | Joined::Refused(head)) => {
                    ClientEvent::resync(vec![head], false)
                }
                Err(Error::NotMember) => ClientEvent::left_conversation(id),
                Err(_) => {
                    unanswered.push(id);
                    continue;
                }
            };
            session.outbox.put_event(&Arc::new(event));
        }
        ids = unanswered;
    }
}
