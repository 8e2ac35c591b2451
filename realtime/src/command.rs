//! Carries out commands: the same for every door.
//!
//! A door gives one command after the other ([`Commands::run`]) and waits for each answer, so that a client's commands are
//! carried out in order. Sends and joins that arrived back to back are given as one ([`Commands::run_batch`]): sends share
//! the store's transactions, joins share the questions to the databases. Every read and write is authorised by the store
//! (INV-MEMBER). Each command has [`COMMAND_TIMEOUT`], and the rate of each session is bounded (INV-BOUND).

mod invocation;

use std::collections::HashSet;
use std::sync::Arc;

use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::NewMessage;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::OneShots;

use self::invocation::{Invocation, Services};
use crate::edge::Edge;
use crate::hub::Hub;
use crate::metrics;
use crate::presence::keeper::PresenceKeeper;
use crate::protocol::commands::{Answer, BatchedCommand, CommandName, dispatch, encode, parse};
use crate::protocol::{Failure, InConversation, SendMessage};
use crate::session::Session;
use crate::settings::RealtimeSettings;

pub(crate) use self::invocation::{COMMAND_TIMEOUT, WATCHED_MAX};

/// Carries out the commands of a node's sessions.
pub(crate) struct Commands {
    services: Services,
}

impl Commands {
    /// Commands on `hub`, `presence` and `store`. The presence of a joined conversation's members follows in `tasks`.
    pub(crate) fn new(
        hub: Arc<Hub>,
        presence: Arc<PresenceKeeper>,
        store: Arc<Store>,
        edge: Arc<dyn Edge>,
        settings: RealtimeSettings,
        tasks: OneShots,
    ) -> Self {
        let services = Services {
            hub,
            presence,
            store,
            edge,
            settings,
            tasks,
        };
        Self { services }
    }

    /// Carries out a command of `session`: `name`, with `data` as JSON text.
    ///
    /// # Errors
    /// The failure that the client receives as the answer.
    pub(crate) async fn run(&self, session: &Arc<Session>, name: &str, data: &str) -> Answer {
        let answer = self.carry_out(session, name, data).await;
        count_failures(name, std::slice::from_ref(&answer));
        answer
    }

    async fn carry_out(&self, session: &Arc<Session>, name: &str, data: &str) -> Answer {
        self.charge(session, 1)?;
        if !CommandName::parse(name).is_some_and(CommandName::is_automatic) {
            session.note_command();
        }
        let invocation = Invocation::new(&self.services, session);
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
            BatchedCommand::Send => {
                let answers = self.send_together(session, data).await;
                count_failures(CommandName::Send.name(), &answers);
                answers
            }
            BatchedCommand::Join => self.join_together(session, data).await,
        }
    }

    /// Takes `cost` commands from the rate of `session`.
    ///
    /// # Errors
    /// [`Failure::rate_limited`].
    pub(crate) fn charge(&self, session: &Session, cost: u32) -> Result<(), Failure> {
        self.services.charge(session, cost)
    }

    /// Has the presence of the members of a conversation that `session` has opened without a command delivered to it, as after the
    /// command.
    pub(crate) fn show_members(&self, session: &Arc<Session>, id: ConversationId) {
        self.services.show_members(session, id);
    }

    /// Sends to one conversation are one batch of the store and keep their order; those to different conversations are at the
    /// same time.
    async fn send_together(&self, session: &Arc<Session>, data: &[impl AsRef<str>]) -> Vec<Answer> {
        let invocation = Invocation::new(&self.services, session);
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
        let most = self.services.settings.joined_conversations;
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

/// Counts those answers to commands of one name that are errors.
fn count_failures(name: &str, answers: &[Answer]) {
    for failure in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        let name = CommandName::parse(name).map_or("unknown", CommandName::name);
        metrics::COMMAND_FAILURES
            .with([name, failure.code])
            .increment(1);
    }
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
