//! Carries out commands: the same for every door.
//!
//! A door gives one command after the other ([`Commands::run`]) and waits for each answer, so that a client's commands are
//! carried out in order. Sends and joins that arrived back to back are given as one ([`Commands::run_batch`]): sends share
//! the store's transactions, joins share the questions to the databases. Every read and write is authorised by the store
//! (INV-MEMBER). Each command has [`COMMAND_TIMEOUT`], and the rate of each session is bounded (INV-BOUND).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result as StoreResult};
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    Caller, ConversationHead, Message, NewMessage, Notification, SyncPage, SyncRequest, Timestamp,
    UnreadCount, UnreadNotifications, Watermarks,
};
use backscroll_shard::store::Store;
use tokio_util::task::TaskTracker;

use crate::bus::Status;
use crate::edge::{self, Edge};
use crate::hub::Hub;
use crate::hub::joining::Joined;
use crate::hub::log_reader::ReplayBudget;
use crate::presence::keeper::PresenceKeeper;
use crate::protocol::commands::{
    Answer, BatchedCommand, CommandHandler, CommandName, dispatch, encode, parse,
};
use crate::protocol::{
    Close, DeleteMessage, Done, EditMessage, Failure, InConversation, MarkDelivered,
    MarkNotificationRead, MarkRead, PresenceSubscribe, PresenceUpdate, React, RefreshToken,
    Refreshed, SendMessage, Watched,
};
use crate::session::Session;
use crate::settings::RealtimeSettings;

/// How long one command may take.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Most users that one session watches.
pub(crate) const WATCHED_MAX: usize = 200;
/// As many watched users cost as much of a session's rate as one command.
const WATCHED_PER_COMMAND: u32 = 10;

/// Carries out the commands of a node's sessions.
pub(crate) struct Commands {
    hub: Arc<Hub>,
    presence: Arc<PresenceKeeper>,
    store: Arc<Store>,
    edge: Arc<dyn Edge>,
    settings: RealtimeSettings,
    tasks: TaskTracker,
}

impl Commands {
    /// Commands on `hub`, `presence` and `store`. The presence of a joined conversation's members follows in `tasks`.
    pub(crate) fn new(
        hub: Arc<Hub>,
        presence: Arc<PresenceKeeper>,
        store: Arc<Store>,
        edge: Arc<dyn Edge>,
        settings: RealtimeSettings,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            hub,
            presence,
            store,
            edge,
            settings,
            tasks,
        }
    }

    /// Carries out a command of `session`: `name`, with `data` as JSON text.
    ///
    /// # Errors
    /// The failure that the client receives as the answer.
    pub(crate) async fn run(&self, session: &Arc<Session>, name: &str, data: &str) -> Answer {
        self.charge(session, 1)?;
        if !CommandName::parse(name).is_some_and(CommandName::is_automatic) {
            session.note_command();
        }
        let invocation = self.invocation(session);
        let answer = dispatch(&invocation, name, data).await;
        invocation.finish(1);
        answer
    }

    /// Carries out commands of `session` that arrived back to back, all `command`, each with its data as JSON text. The
    /// answers are in the order of the data.
    pub(crate) async fn run_batch(
        &self,
        session: &Arc<Session>,
        command: BatchedCommand,
        data: &[impl AsRef<str>],
    ) -> Vec<Answer> {
        match command {
            BatchedCommand::Send => self.send_together(session, data).await,
            BatchedCommand::Join => self.join_together(session, data).await,
        }
    }

    fn invocation<'a>(&'a self, session: &'a Arc<Session>) -> Invocation<'a> {
        let started = Instant::now();
        Invocation {
            commands: self,
            session,
            started,
            caller: Caller {
                user: session.user.clone(),
                deadline: started + COMMAND_TIMEOUT,
            },
        }
    }

    /// Takes `cost` commands from the rate of `session`.
    pub(crate) fn charge(&self, session: &Session, cost: u32) -> Result<(), Failure> {
        let (rate, burst) = (
            self.settings.commands_per_second,
            self.settings.command_burst,
        );
        session.charge(rate, burst, cost).map_err(|wait| {
            metrics::counter!("backscroll_realtime_rate_limited_total").increment(1);
            Failure::rate_limited(wait)
        })
    }

    /// Sends to one conversation are one batch of the store and keep their order; those to different conversations are at the
    /// same time.
    async fn send_together(&self, session: &Arc<Session>, data: &[impl AsRef<str>]) -> Vec<Answer> {
        let invocation = self.invocation(session);
        let mut answers: Vec<Answer> = Vec::with_capacity(data.len());
        let mut batches: Vec<(ConversationId, Vec<usize>, Vec<NewMessage>)> = Vec::new();
        for (place, data) in data.iter().enumerate() {
            let command = self.charge(session, 1).and_then(|()| {
                session.note_command();
                parse::<SendMessage>(data.as_ref())
            });
            let (id, message) = match command.map(SendMessage::into_message) {
                Ok(message) => message,
                Err(failure) => {
                    answers.push(Err(failure));
                    continue;
                }
            };
            answers.push(Err(Failure::invalid("the message was not sent"))); // replaced by what the store answers
            match batches.iter_mut().find(|(other, ..)| *other == id) {
                Some((_, places, messages)) => {
                    places.push(place);
                    messages.push(message);
                }
                None => batches.push((id, vec![place], vec![message])),
            }
        }
        let sending = batches
            .into_iter()
            .map(async |(id, places, messages)| (places, invocation.send_all(id, messages).await));
        for (places, sent) in futures_util::future::join_all(sending).await {
            for (place, sent) in places.into_iter().zip(sent) {
                answers[place] = sent.and_then(|message| encode(&message));
            }
        }
        invocation.finish(answers.len());
        answers
    }

    /// Joins that certainly stay within the session's bound run at the same time; the others follow one by one.
    async fn join_together(&self, session: &Arc<Session>, data: &[impl AsRef<str>]) -> Vec<Answer> {
        const JOIN: CommandName = CommandName::Join;
        let most = self.settings.joined_conversations;
        let room = most.saturating_sub(session.joined_count());
        let mut wanted = HashSet::new();
        let mut fits = |data: &str| {
            let command = parse::<InConversation>(data);
            wanted.len() < room && command.is_ok_and(|data| wanted.insert(data.conversation_id))
        };
        let concurrent = data.iter().map(|data| {
            let data = data.as_ref();
            let fits = fits(data);
            async move {
                if fits {
                    Some(self.run(session, JOIN.name(), data).await)
                } else {
                    None
                }
            }
        });
        let done = futures_util::future::join_all(concurrent.collect::<Vec<_>>()).await;
        let mut answers = Vec::with_capacity(data.len());
        for (data, done) in data.iter().zip(done) {
            answers.push(match done {
                Some(answer) => answer,
                None => self.run(session, JOIN.name(), data.as_ref()).await,
            });
        }
        answers
    }
}

/// Commands of one session that are being carried out.
struct Invocation<'a> {
    commands: &'a Commands,
    session: &'a Arc<Session>,
    started: Instant,
    caller: Caller,
}

impl Invocation<'_> {
    fn hub(&self) -> &Hub {
        &self.commands.hub
    }

    fn store(&self) -> &Store {
        &self.commands.store
    }

    fn failure(&self, error: Error) -> Failure {
        self.commands.edge.failure(error)
    }

    fn answer<T>(&self, outcome: StoreResult<T>) -> Result<T, Failure> {
        outcome.map_err(|error| self.failure(error))
    }

    /// Notes that `commands` commands are done.
    fn finish(&self, commands: usize) {
        self.session.note_activity(); // nothing else was read meanwhile
        metrics::histogram!("backscroll_realtime_command_seconds")
            .record_many(self.started.elapsed().as_secs_f64(), commands);
    }

    /// Sends messages to one conversation, in order.
    async fn send_all(
        &self,
        id: ConversationId,
        messages: Vec<NewMessage>,
    ) -> Vec<Result<Message, Failure>> {
        let store = self.store();
        let sent = store.send_all(&self.caller, id, messages).await;
        if sent.iter().any(Result::is_ok) {
            self.session.stop_typing(id); // the message tells the others as much
        }
        let sent = sent.into_iter().map(|sent| self.answer(sent));
        sent.map(|sent| Ok(sent?.message)).collect()
    }

    /// Typing is published for sessions that have the conversation open, and so are members'.
    fn typing(&self, id: ConversationId, is_typing: bool) -> Result<Done, Failure> {
        if !self.session.has_joined(id) {
            return Err(Failure::invalid("join the conversation first"));
        }
        let changed = if is_typing {
            self.hub().is_small(id) && self.session.start_typing(id)
        } else {
            self.session.stop_typing(id)
        };
        if changed {
            self.hub().publish_typing(self.session, id, is_typing);
        }
        Ok(Done {})
    }

    /// Replaces the token of the session, which must be of the same user.
    async fn renew(&self, token: &str) -> Result<Timestamp, (Close, Failure)> {
        let identity = edge::authenticate(&self.commands.edge, token).await?;
        if identity.user != self.session.user {
            let failure = Failure {
                code: "token_invalid",
                message: "the token is another user's".to_owned(),
                retry_after_ms: None,
            };
            return Err((Close::TokenInvalid, failure));
        }
        let expires_at = i64::try_from(identity.expires_at).unwrap_or(i64::MAX);
        self.session.expires_at.store(expires_at, Ordering::Relaxed);
        Ok(Timestamp(expires_at.saturating_mul(1000)))
    }
}

impl CommandHandler for Invocation<'_> {
    async fn join(&self, data: InConversation) -> Result<ConversationHead, Failure> {
        let (id, session) = (data.conversation_id, self.session);
        let most = self.commands.settings.joined_conversations;
        if !session.has_joined(id) && session.joined_count() >= most {
            return Err(Failure::limit_reached(format!(
                "open conversations: at most {most}; leave one first"
            )));
        }
        let no_replay = ReplayBudget::none();
        let joining = self.hub().join(session, id, None, &no_replay);
        let joined = tokio::time::timeout(COMMAND_TIMEOUT, joining).await;
        let joined = joined.unwrap_or(Err(Error::DeadlineExceeded));
        let (Joined::Whole(head) | Joined::Refused(head)) = self.answer(joined)?;
        if !session.names_watched() && self.hub().is_small(id) {
            let presence = Arc::clone(&self.commands.presence);
            let session = Arc::clone(session);
            let show = async move { presence.show_members(&session, id).await };
            self.commands.tasks.spawn(show);
        }
        Ok(head)
    }

    async fn leave(&self, data: InConversation) -> Result<Done, Failure> {
        let id = data.conversation_id;
        if self.session.stop_typing(id) {
            self.hub().publish_typing(self.session, id, false);
        }
        self.hub().leave(self.session, id);
        self.session.record_leave(id);
        Ok(Done {})
    }

    async fn send(&self, data: SendMessage) -> Result<Message, Failure> {
        let (id, message) = data.into_message();
        let mut sent = self.send_all(id, vec![message]).await;
        sent.pop()
            .unwrap_or_else(|| Err(self.failure(Error::Closing)))
    }

    async fn edit(&self, data: EditMessage) -> Result<Message, Failure> {
        let store = self.store();
        self.answer(
            store
                .edit_message(&self.caller, data.message_id, data.content)
                .await,
        )
    }

    async fn delete(&self, data: DeleteMessage) -> Result<Message, Failure> {
        let store = self.store();
        self.answer(store.delete_message(&self.caller, data.message_id).await)
    }

    async fn react(&self, data: React) -> Result<Message, Failure> {
        let (store, caller) = (self.store(), &self.caller);
        let (id, emoji) = (data.message_id, &data.emoji);
        self.answer(if data.remove {
            store.unreact(caller, id, emoji).await
        } else {
            store.react(caller, id, emoji).await
        })
    }

    async fn start_typing(&self, data: InConversation) -> Result<Done, Failure> {
        self.typing(data.conversation_id, true)
    }

    async fn stop_typing(&self, data: InConversation) -> Result<Done, Failure> {
        self.typing(data.conversation_id, false)
    }

    async fn mark_read(&self, data: MarkRead) -> Result<Watermarks, Failure> {
        let id = data.conversation_id;
        let seq = match (data.seq, data.message_ids) {
            (Some(_), Some(_)) => {
                return Err(Failure::invalid("give either `seq` or `messageIds`"));
            }
            (seq, None) => seq,
            (None, Some(messages)) => Some(newest_of(id, &messages)?),
        };
        self.answer(self.store().mark_read(&self.caller, id, seq).await)
    }

    async fn mark_delivered(&self, data: MarkDelivered) -> Result<Watermarks, Failure> {
        let store = self.store();
        self.answer(
            store
                .mark_delivered(&self.caller, data.conversation_id, data.seq)
                .await,
        )
    }

    async fn sync(&self, data: SyncRequest) -> Result<SyncPage, Failure> {
        self.answer(self.store().sync(&self.caller, data).await)
    }

    async fn watch(&self, data: PresenceSubscribe) -> Result<Watched, Failure> {
        let mut users = data.user_ids;
        users.sort_unstable();
        users.dedup();
        if users.len() > WATCHED_MAX {
            return Err(Failure::limit_reached(format!(
                "watched users: at most {WATCHED_MAX}"
            )));
        }
        let cost = u32::try_from(users.len()).unwrap_or(u32::MAX) / WATCHED_PER_COMMAND;
        self.commands.charge(self.session, cost)?;
        let users = self.commands.presence.watch(self.session, users).await;
        Ok(Watched { users })
    }

    async fn show(&self, data: PresenceUpdate) -> Result<Done, Failure> {
        if data.status == Status::Idle {
            return Err(Failure::invalid(
                "status: one of online, away, busy and offline",
            ));
        }
        self.session.show(data.status);
        self.commands.presence.mark_changed(&self.session.user);
        Ok(Done {})
    }

    async fn unread_count(&self, _: Done) -> Result<UnreadCount, Failure> {
        self.answer(self.store().unread_count(&self.caller).await)
    }

    async fn read_notification(&self, data: MarkNotificationRead) -> Result<Notification, Failure> {
        let store = self.store();
        self.answer(
            store
                .read_notification(&self.caller, data.notification_id)
                .await,
        )
    }

    async fn read_notifications(&self, _: Done) -> Result<Done, Failure> {
        let read = self.store().read_notifications(&self.caller).await;
        self.answer(read)?;
        Ok(Done {})
    }

    async fn unread_notifications(&self, _: Done) -> Result<UnreadNotifications, Failure> {
        self.answer(self.store().unread_notifications(&self.caller).await)
    }

    async fn refresh_token(&self, data: RefreshToken) -> Result<Refreshed, Failure> {
        match self.renew(&data.token).await {
            Ok(expires_at) => Ok(Refreshed { expires_at }),
            Err((Close::Internal, failure)) => Err(failure), // the token could not be checked
            Err((close, failure)) => {
                self.session.outbox.close(close);
                Err(failure)
            }
        }
    }

    async fn ping(&self, _: Done) -> Result<Done, Failure> {
        Ok(Done {})
    }
}

/// The newest of `messages`, which must all be of one conversation.
fn newest_of(id: ConversationId, messages: &[MessageId]) -> Result<Seq, Failure> {
    if messages.iter().any(|message| message.conversation != id) {
        return Err(Failure::invalid(
            "messageIds: they are not all of this conversation",
        ));
    }
    let newest = messages.iter().map(|message| message.seq).max();
    newest.ok_or_else(|| Failure::invalid("messageIds: name at least one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is on the heap once for each command in flight, and moved there.
    #[test]
    fn what_a_command_holds_is_small() {
        fn size<F: Future>(_: impl Fn(&'static Commands, &'static Arc<Session>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(|commands, session| commands.run(session, "", ""));
        assert!(size < 4096, "{size} bytes");
    }
}
