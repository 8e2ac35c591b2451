//! The commands, one method each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result as StoreResult};
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    Caller, ConversationHead, Message, MessageEdit, NewMessage, Notification, SearchPage,
    SearchRequest, SyncPage, SyncRequest, UnreadCount, UnreadNotifications, Watermarks,
};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::OneShots;

use crate::bus::Status;
use crate::edge::{self, Edge};
use crate::hub::Hub;
use crate::hub::joining::Joined;
use crate::hub::log_reader::ReplayBudget;
use crate::metrics;
use crate::outbox::answer_bytes;
use crate::presence::keeper::PresenceKeeper;
use crate::protocol::commands::CommandHandler;
use crate::protocol::{
    Close, DeleteMessage, Done, EditMessage, Failure, InConversation, MarkDelivered,
    MarkNotificationRead, MarkRead, PresenceSubscribe, PresenceUpdate, React, RefreshToken,
    Refreshed, SendMessage, Watched,
};
use crate::session::Session;
use crate::settings::RealtimeSettings;

/// How long one command may take.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// When a user too many of whose reads wait may come again.
const TURN_RETRY_MS: u64 = 1000;
/// Most users that one session watches.
pub(crate) const WATCHED_MAX: usize = 200;
/// As many watched users cost as much of a session's rate as one command.
const WATCHED_PER_COMMAND: u32 = 10;

/// The parts of the node that commands work on.
pub(super) struct Services {
    pub(super) hub: Arc<Hub>,
    pub(super) presence: Arc<PresenceKeeper>,
    pub(super) store: Arc<Store>,
    pub(super) edge: Arc<dyn Edge>,
    pub(super) settings: RealtimeSettings,
    /// Where the presence of a joined conversation's members is looked up, after the answer.
    pub(super) tasks: OneShots,
}

impl Services {
    /// Takes `cost` commands from the rate of `session`.
    pub(super) fn charge(&self, session: &Session, cost: u32) -> Result<(), Failure> {
        let (rate, burst) = (
            self.settings.commands_per_second,
            self.settings.command_burst,
        );
        session.charge(rate, burst, cost).map_err(|wait| {
            metrics::RATE_LIMITED.increment(1);
            Failure::rate_limited(wait)
        })
    }

    /// Has the presence of the members of a small conversation delivered to `session`, which has opened it, unless the session
    /// names the users that it watches.
    pub(super) fn show_members(&self, session: &Arc<Session>, id: ConversationId) {
        if session.names_watched() || !self.hub.is_small(id) {
            return;
        }
        let (presence, session) = (Arc::clone(&self.presence), Arc::clone(session));
        let show = async move { presence.show_members(&session, id).await };
        let _ = self.tasks.spawn(show); // without room for it, the session goes without
    }
}

/// Commands of one session that are being carried out.
pub(super) struct Invocation<'a> {
    services: &'a Services,
    session: &'a Arc<Session>,
    started: Instant,
    caller: Caller,
}

impl<'a> Invocation<'a> {
    /// Commands of `session` that begin now.
    pub(super) fn new(services: &'a Services, session: &'a Arc<Session>) -> Self {
        let started = Instant::now();
        Self {
            services,
            session,
            started,
            caller: Caller {
                user: session.user.clone(),
                deadline: started + COMMAND_TIMEOUT,
            },
        }
    }

    fn hub(&self) -> &Hub {
        &self.services.hub
    }

    fn store(&self) -> &Store {
        &self.services.store
    }

    fn failure(&self, error: Error) -> Failure {
        self.services.edge.failure(error)
    }

    fn answer<T>(&self, outcome: StoreResult<T>) -> Result<T, Failure> {
        outcome.map_err(|error| self.failure(error))
    }

    /// Notes that `commands` commands are done.
    pub(super) fn finish(&self, commands: usize) {
        self.session.note_activity(); // nothing else was read meanwhile
        metrics::COMMAND_SECONDS
            .series()
            .record_many(self.started.elapsed().as_secs_f64(), commands);
    }

    /// Sends messages to one conversation, in order.
    pub(super) async fn send_all(
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

    /// Most bytes of messages in an answer to this session.
    fn most_bytes(&self) -> usize {
        let queue_bytes = self.services.settings.queue_bytes;
        answer_bytes(queue_bytes, self.store().settings().limits.answer_bytes)
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
    async fn renew(&self, token: &str) -> Result<Refreshed, (Close, Failure)> {
        let identity = edge::authenticate(&self.services.edge, token).await?;
        if identity.user != self.session.user {
            let failure = Failure {
                code: "token_invalid",
                message: "the token is another user's".to_owned(),
                retry_after_ms: None,
                rule: None,
            };
            return Err((Close::TokenInvalid, failure));
        }
        self.session.renew(&identity);
        let (expires_at, expires_in_ms) = self.session.token_expiry();
        Ok(Refreshed {
            expires_at,
            expires_in_ms,
        })
    }
}

/// So many of the user's reads wait, over all connections, that this one cannot. It is not this connection's rate.
fn too_many_reads() -> Failure {
    Failure {
        code: "overloaded",
        message: "too many reads of this user wait; try again later".to_owned(),
        retry_after_ms: Some(TURN_RETRY_MS),
        rule: None,
    }
}

impl CommandHandler for Invocation<'_> {
    async fn join(&self, data: InConversation) -> Result<ConversationHead, Failure> {
        let (id, session) = (data.conversation_id, self.session);
        let most = self.services.settings.joined_conversations;
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
        self.services.show_members(session, id);
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
        let edit = MessageEdit {
            content: data.content,
            mentions: data.mentions,
        };
        let store = self.store();
        self.answer(store.edit(&self.caller, data.message_id, edit).await)
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
        let sanctions = self.store().sanctions();
        self.answer(sanctions.may_speak(&self.caller.user))?;
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
        let store = self.store();
        let turn = store.turns().wait(&self.caller.user).await;
        let _turn = turn.ok_or_else(too_many_reads)?;
        let bytes = self.most_bytes();
        self.answer(store.sync_within(&self.caller, data, bytes).await)
    }

    async fn search(&self, data: SearchRequest) -> Result<SearchPage, Failure> {
        let bytes = self.most_bytes();
        let page = self.store().search_within(&self.caller, data, bytes);
        self.answer(page.await)
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
        self.services.charge(self.session, cost)?;
        let users = self.services.presence.watch(self.session, users).await;
        Ok(Watched { users })
    }

    async fn show(&self, data: PresenceUpdate) -> Result<Done, Failure> {
        if data.status == Status::Idle {
            return Err(Failure::invalid(
                "status: one of online, away, busy and offline",
            ));
        }
        self.session.show(data.status);
        self.services
            .presence
            .users()
            .mark_changed(&self.session.user);
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
            Ok(refreshed) => Ok(refreshed),
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
