//! Commands: what a client asks of its session, checked, done and answered. The same for every door.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq, UserId};
use backscroll_shard::model::{Caller, NewMessage, RawJson, SyncRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bus::Status;
use crate::gateway::{COMMAND_TIMEOUT, Gateway, WATCHED_MAX};
use crate::hub::Joined;
use crate::protocol::{
    Close, DeleteMessage, Done, EditMessage, Failure, InConversation, MarkDelivered,
    MarkNotificationRead, MarkRead, PresenceSubscribe, PresenceUpdate, React, RefreshToken,
    Refreshed, SendMessage, Watched,
};
use crate::push::Topic;
use crate::session::Session;

const SEND: &str = "send_message";
const JOIN: &str = "join_conversation";
/// Commands of which those that come one right after the other are done together.
pub(crate) const TOGETHER: [&str; 2] = [SEND, JOIN];

/// Commands that clients give by themselves: they do not show that somebody is there.
const AUTOMATIC: [&str; 4] = ["ping", "refresh_token", "mark_delivered", "sync"];

/// How many watched users cost as much as a command.
const WATCHED_FOR_ONE: u32 = 10;

/// What an answer holds.
type Answer = Result<Arc<RawJson>, Failure>;

fn answer(data: &impl Serialize) -> Answer {
    Ok(Arc::new(RawJson::of(data)))
}

fn parse<T: DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|error| Failure::invalid(format!("data: {error}")))
}

/// Who gives a command of `session`, and until when it may take.
fn caller(session: &Session, started: Instant) -> Caller {
    Caller {
        user: session.user.clone(),
        deadline: started + COMMAND_TIMEOUT,
    }
}

/// Notes that commands given together are done.
fn done(session: &Session, started: Instant, commands: usize) {
    session.heard(); // while they were done, nothing else was read
    metrics::histogram!("backscroll_realtime_command_seconds")
        .record_many(started.elapsed().as_secs_f64(), commands);
}

impl Gateway {
    /// Does a command of `session`: `name`, with `data` as JSON text. The caller waits for the answer before it gives the
    /// next, so that a client's commands are done in order.
    ///
    /// # Errors
    /// What the client is answered instead.
    pub async fn command(&self, session: &Arc<Session>, name: &str, data: &str) -> Answer {
        if name == SEND {
            let mut answers = self.sends(session, &[data]).await;
            return answers
                .pop()
                .unwrap_or_else(|| Err(self.failure(Error::Closing)));
        }
        self.admit_command(session)?;
        if !AUTOMATIC.contains(&name) {
            session.acted();
        }
        let started = Instant::now();
        let caller = caller(session, started);
        let outcome = self.perform(session, &caller, name, data).await;
        done(session, started, 1);
        outcome
    }

    /// Does commands of `session` that came one right after the other, all `name`, which is one of [`TOGETHER`]. Gives each
    /// its answer.
    pub async fn commands(
        &self,
        session: &Arc<Session>,
        name: &str,
        data: &[impl AsRef<str>],
    ) -> Vec<Answer> {
        match name {
            SEND => self.sends(session, data).await,
            _ => self.joins(session, data).await,
        }
    }

    /// Whether `session` may give another command already.
    fn admit_command(&self, session: &Session) -> Result<(), Failure> {
        let (rate, burst) = (
            self.settings.commands_per_second,
            self.settings.command_burst,
        );
        session.admit(rate, burst, 1).map_err(|wait| {
            metrics::counter!("backscroll_realtime_rate_limited_total").increment(1);
            Failure::rate_limited(wait)
        })
    }

    /// Receipts are what there is most of. The others are on the heap, so that these are small.
    async fn perform(
        &self,
        session: &Arc<Session>,
        caller: &Caller,
        name: &str,
        data: &str,
    ) -> Answer {
        match name {
            JOIN => Box::pin(self.join(session, parse(data)?)).await,
            "leave_conversation" => self.leave(session, parse(data)?),
            "edit_message" => Box::pin(self.edit(caller, parse(data)?)).await,
            "delete_message" => Box::pin(self.delete(caller, parse(data)?)).await,
            "react" => Box::pin(self.react(caller, parse(data)?)).await,
            "typing_start" => self.typing(session, parse(data)?, true),
            "typing_stop" => self.typing(session, parse(data)?, false),
            "mark_read" => self.mark_read(caller, parse(data)?).await,
            "mark_delivered" => self.mark_delivered(caller, parse(data)?).await,
            "sync" => Box::pin(self.sync(caller, parse(data)?)).await,
            "presence_subscribe" => Box::pin(self.watch(session, parse(data)?)).await,
            "presence_update" => self.show(session, parse(data)?),
            "unread_count" => {
                let count = Box::pin(self.hub.store().unread_count(caller)).await;
                answer(&count.map_err(|error| self.failure(error))?)
            }
            "mark_notification_read" => {
                Box::pin(self.read_notification(caller, parse(data)?)).await
            }
            "mark_notifications_read" => {
                let read = Box::pin(self.hub.store().read_notifications(caller)).await;
                read.map_err(|error| self.failure(error))?;
                answer(&Done {})
            }
            "unread_notifications" => {
                let count = Box::pin(self.hub.store().unread_notifications(caller)).await;
                answer(&count.map_err(|error| self.failure(error))?)
            }
            "refresh_token" => Box::pin(self.refresh_token(session, parse(data)?)).await,
            "ping" => answer(&Done {}),
            unknown => Err(Failure::invalid(format!(
                "there is no command `{}`",
                shorten(unknown)
            ))),
        }
    }

    /// Does sends that `session` gave one right after the other, each with `data` as JSON text: together, so that many cost
    /// hardly more than one. Those to one conversation keep their order. Gives each its answer.
    async fn sends(&self, session: &Session, data: &[impl AsRef<str>]) -> Vec<Answer> {
        let started = Instant::now();
        let mut answers: Vec<Answer> = Vec::with_capacity(data.len());
        let mut to: Vec<(ConversationId, Vec<usize>, Vec<NewMessage>)> = Vec::new();
        for (place, data) in data.iter().enumerate() {
            let command = self.admit_command(session).and_then(|()| {
                session.acted();
                parse(data.as_ref())
            });
            let (id, message) = match command.map(SendMessage::into_message) {
                Ok(message) => message,
                Err(failure) => {
                    answers.push(Err(failure));
                    continue;
                }
            };
            answers.push(Err(Failure::invalid("it was not sent"))); // until it is
            match to.iter_mut().find(|(other, ..)| *other == id) {
                Some((_, places, messages)) => {
                    places.push(place);
                    messages.push(message);
                }
                None => to.push((id, vec![place], vec![message])),
            }
        }
        let caller = caller(session, started);
        let sending = to.into_iter().map(async |(id, places, messages)| {
            let sent = self.hub.store().send_all(&caller, id, messages).await;
            if sent.iter().any(Result::is_ok) {
                session.stopped_typing(id); // who is told of the message knows
            }
            places.into_iter().zip(sent)
        });
        for (place, sent) in futures_util::future::join_all(sending)
            .await
            .into_iter()
            .flatten()
        {
            let sent = sent.map_err(|error| self.failure(error));
            answers[place] = sent.and_then(|sent| answer(&sent.message));
        }
        done(session, started, answers.len());
        answers
    }

    /// Joins for which there surely is room are done at the same time, so that what they ask the databases goes into the
    /// same batches; the others after them, one by one.
    async fn joins(&self, session: &Arc<Session>, data: &[impl AsRef<str>]) -> Vec<Answer> {
        let most = self.settings.joined_conversations;
        let room = most.saturating_sub(session.joined_count());
        let mut first = HashSet::new();
        let mut fits = |data: &str| {
            let command = parse::<InConversation>(data);
            first.len() < room && command.is_ok_and(|to| first.insert(to.conversation_id))
        };
        let at_once = data.iter().map(|data| {
            let data = data.as_ref();
            let fits = fits(data);
            async move {
                if fits {
                    Some(self.command(session, JOIN, data).await)
                } else {
                    None
                }
            }
        });
        let done = futures_util::future::join_all(at_once.collect::<Vec<_>>()).await;
        let mut answers = Vec::with_capacity(data.len());
        for (data, done) in data.iter().zip(done) {
            answers.push(match done {
                Some(answer) => answer,
                None => self.command(session, JOIN, data.as_ref()).await,
            });
        }
        answers
    }

    async fn join(&self, session: &Arc<Session>, command: InConversation) -> Answer {
        let id = command.conversation_id;
        let most = self.settings.joined_conversations;
        if !session.has_joined(id) && session.joined_count() >= most {
            return Err(Failure {
                code: "limit_reached",
                message: format!("open conversations: at most {most}; leave one first"),
                retry_after_ms: None,
            });
        }
        let nothing = AtomicUsize::new(0);
        let joining = self.hub.join(session, id, None, &nothing);
        let joined = tokio::time::timeout(COMMAND_TIMEOUT, joining)
            .await
            .unwrap_or(Err(Error::DeadlineExceeded));
        let (Joined::Whole(head) | Joined::Refused(head)) =
            joined.map_err(|error| self.failure(error))?;
        if !session.names_watched() && self.hub.is_small(id) {
            let (presence, session) = (Arc::clone(&self.presence), Arc::clone(session));
            self.tasks()
                .spawn(async move { presence.show_members(&session, id).await });
        }
        answer(&head)
    }

    fn leave(&self, session: &Arc<Session>, command: InConversation) -> Answer {
        let id = command.conversation_id;
        if session.stopped_typing(id) {
            self.tell_typing(session, id, false);
        }
        self.hub.leave(session, &Topic::Conversation(id));
        session.left(id);
        answer(&Done {})
    }

    async fn edit(&self, caller: &Caller, command: EditMessage) -> Answer {
        let store = self.hub.store();
        let edited = store
            .edit_message(caller, command.message_id, command.content)
            .await;
        answer(&edited.map_err(|error| self.failure(error))?)
    }

    async fn delete(&self, caller: &Caller, command: DeleteMessage) -> Answer {
        let deleted = self
            .hub
            .store()
            .delete_message(caller, command.message_id)
            .await;
        answer(&deleted.map_err(|error| self.failure(error))?)
    }

    async fn react(&self, caller: &Caller, command: React) -> Answer {
        let store = self.hub.store();
        let reacted = if command.remove {
            store
                .unreact(caller, command.message_id, &command.emoji)
                .await
        } else {
            store
                .react(caller, command.message_id, &command.emoji)
                .await
        };
        answer(&reacted.map_err(|error| self.failure(error))?)
    }

    /// Only who has the conversation open, and so is a member, is heard typing there.
    fn typing(&self, session: &Session, command: InConversation, is_typing: bool) -> Answer {
        let id = command.conversation_id;
        if !session.has_joined(id) {
            return Err(Failure::invalid("join the conversation first"));
        }
        let told = if is_typing {
            self.hub.is_small(id) && session.typing(id)
        } else {
            session.stopped_typing(id)
        };
        if told {
            self.tell_typing(session, id, is_typing);
        }
        answer(&Done {})
    }

    async fn mark_read(&self, caller: &Caller, command: MarkRead) -> Answer {
        let id = command.conversation_id;
        let seq = match (command.seq, command.message_ids) {
            (Some(_), Some(_)) => {
                return Err(Failure::invalid("give either `seq` or `messageIds`"));
            }
            (seq, None) => seq,
            (None, Some(messages)) => Some(newest(id, &messages)?),
        };
        let watermarks = self.hub.store().mark_read(caller, id, seq).await;
        answer(&watermarks.map_err(|error| self.failure(error))?)
    }

    async fn mark_delivered(&self, caller: &Caller, command: MarkDelivered) -> Answer {
        let store = self.hub.store();
        let watermarks = store
            .mark_delivered(caller, command.conversation_id, command.seq)
            .await;
        answer(&watermarks.map_err(|error| self.failure(error))?)
    }

    async fn sync(&self, caller: &Caller, request: SyncRequest) -> Answer {
        let page = self.hub.store().sync(caller, request).await;
        answer(&page.map_err(|error| self.failure(error))?)
    }

    async fn read_notification(&self, caller: &Caller, command: MarkNotificationRead) -> Answer {
        let store = self.hub.store();
        let read = store
            .read_notification(caller, command.notification_id)
            .await;
        answer(&read.map_err(|error| self.failure(error))?)
    }

    async fn watch(&self, session: &Arc<Session>, command: PresenceSubscribe) -> Answer {
        let mut users = command.user_ids;
        users.sort_unstable();
        users.dedup();
        if users.len() > WATCHED_MAX {
            return Err(Failure {
                code: "limit_reached",
                message: format!("watched users: at most {WATCHED_MAX}"),
                retry_after_ms: None,
            });
        }
        let (rate, burst) = (
            self.settings.commands_per_second,
            self.settings.command_burst,
        );
        let cost = u32::try_from(users.len()).unwrap_or(u32::MAX) / WATCHED_FOR_ONE;
        if let Err(wait) = session.admit(rate, burst, cost) {
            return Err(Failure::rate_limited(wait));
        }
        let Some(before) = session.watch(users.clone()) else {
            return answer(&Done {});
        };
        for user in before
            .into_iter()
            .filter(|user| users.binary_search(user).is_err())
        {
            self.hub.leave(session, &Topic::Presence(user));
        }
        // Watched first, looked up then: what changes meanwhile is told.
        let watching = users
            .iter()
            .map(|user| self.hub.watch(session, user.clone()));
        futures_util::future::join_all(watching).await;
        if session.watch(users.clone()).is_none() {
            for user in &users {
                self.hub.leave(session, &Topic::Presence(user.clone()));
            }
        }
        let users = self.presence.look_up(&users).await;
        users.iter().for_each(|user| self.hub.note_presence(user));
        answer(&Watched { users })
    }

    fn show(&self, session: &Session, command: PresenceUpdate) -> Answer {
        if command.status == Status::Idle {
            return Err(Failure::invalid(
                "status: one of online, away, busy and offline",
            ));
        }
        session.show(command.status);
        self.presence.touched(&session.user);
        answer(&Done {})
    }

    async fn refresh_token(&self, session: &Session, command: RefreshToken) -> Answer {
        match self.refresh(session, &command.token).await {
            Ok(expires_at) => answer(&Refreshed { expires_at }),
            Err((Close::Internal, failure)) => Err(failure),
            Err((close, failure)) => {
                session.outbox.close(close);
                Err(failure)
            }
        }
    }

    /// The direct conversation with another user, made when there is none: for front-ends that name a person, not a
    /// conversation.
    ///
    /// # Errors
    /// What the client is answered instead.
    pub async fn direct(
        &self,
        session: &Session,
        other: UserId,
    ) -> Result<ConversationId, Failure> {
        let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
        let new = backscroll_shard::model::NewConversation {
            kind: backscroll_shard::model::ConversationKind::Direct,
            members: vec![other],
            title: None,
            metadata: None,
        };
        let store = self.hub.store();
        let created = store.create_conversation(&caller, new, None).await;
        Ok(created.map_err(|error| self.failure(error))?.0.id)
    }
}

/// The newest of some messages, which must be of one conversation.
fn newest(
    id: ConversationId,
    messages: &[backscroll_shard::ids::MessageId],
) -> Result<Seq, Failure> {
    if messages.iter().any(|message| message.conversation != id) {
        return Err(Failure::invalid(
            "messageIds: they are not all of this conversation",
        ));
    }
    let newest = messages.iter().map(|message| message.seq).max();
    newest.ok_or_else(|| Failure::invalid("messageIds: name at least one"))
}

fn shorten(name: &str) -> String {
    name.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is on the heap once for each command in flight, and moved there.
    #[test]
    fn what_a_command_holds_is_small() {
        fn size<F: Future>(_: impl Fn(&'static Gateway, &'static Arc<Session>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(|gateway, session| gateway.command(session, "", ""));
        assert!(size < 4096, "{size} bytes");
    }
}
