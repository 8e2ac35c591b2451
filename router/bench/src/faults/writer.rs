//! Writers: users that send, edit, delete, react and move watermarks. An operation without an answer is repeated until it is
//! answered or given up.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::faults::context::{Phase, RunContext};
use crate::faults::conversation::Conversation;
use crate::faults::ledger::{Ledger, user_name};
use crate::faults::message::{Change, Message};
use crate::faults::observed::Text;
use crate::faults::operation::{Action, Answer, Operation, Reply};
use crate::faults::transport::{HttpClient, SocketClient};
use crate::realtime::door::Door;

/// The number of conversations and messages that are tried to find one that allows an operation.
const TRIES: usize = 12;
/// One of this many operations without an answer is given up after an attempt.
const GIVEN_UP: u32 = 6;
/// One of this many messages mentions a member.
const MENTIONING: u32 = 4;
/// One of this many messages answers another one.
const ANSWERING: u32 = 3;
/// The number of messages of a conversation that are ever pinned, below what a conversation may have.
const PINNED_MAX: usize = 90;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest padding of a short text, and of a long one.
const SHORT: u16 = 80;
const LONG: u16 = 3000;

/// A writer's client.
pub enum Transport {
    /// An HTTP client, as any user.
    Http(HttpClient),
    /// A socket, as the user at this position.
    Socket(Box<SocketClient>, usize),
}

impl Transport {
    /// The client of writer number `number`: every third has a socket, every second of these Socket.IO.
    #[must_use]
    pub fn of(number: usize, users: usize) -> Self {
        match number % 6 {
            2 => Self::Socket(Box::new(SocketClient::new(Door::Native)), number % users),
            5 => Self::Socket(Box::new(SocketClient::new(Door::SocketIo)), number % users),
            _ => Self::Http(HttpClient::default()),
        }
    }

    async fn perform(
        &mut self,
        context: &RunContext,
        random: &mut SmallRng,
        operation: &Operation,
    ) -> Reply {
        match self {
            Self::Socket(client, _) => client.perform(context, random, operation).await,
            Self::Http(client) => {
                let (method, path, body) = operation.request();
                let node = random.random_range(0..context.fronts.len());
                let user = &context.users[operation.user];
                client
                    .ask(context, node, user, (method, &path, body.as_deref()))
                    .await
            }
        }
    }
}

/// Requests one operation after another, with pauses of `pause` on average, until the end of the run.
pub async fn write(context: Arc<RunContext>, mut transport: Transport, seed: u64, pause: Duration) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut count = 0;
    while context.phase() == Phase::Run {
        sleep(pause.mul_f64(random.random_range(0.0..2.0))).await;
        let only = match &transport {
            Transport::Http(_) => None,
            Transport::Socket(_, user) => Some(*user),
        };
        let planned = {
            let mut ledger = context.ledger();
            let client_id = format!("{seed:x}-{count}");
            let planned = plan(&mut ledger, &mut random, only, &client_id);
            planned.iter().for_each(|operation| ledger.begin(operation));
            planned
        };
        count += 1;
        if let Some(operation) = planned {
            request_until_answered(&context, &mut transport, &mut random, &operation).await;
        }
    }
}

/// Requests `operation` until it is answered or given up.
async fn request_until_answered(
    context: &RunContext,
    transport: &mut Transport,
    random: &mut SmallRng,
    operation: &Operation,
) {
    let mut at_first_attempt = true;
    let mut pause = Duration::from_millis(50);
    loop {
        let reply = transport.perform(context, random, operation).await;
        context.log_operation(operation, &reply);
        let found = match &reply.answer {
            Answer::Done { status, body } => {
                let how = (reply.asked, at_first_attempt);
                Some(
                    context
                        .ledger()
                        .acknowledge(operation, (*status, body), how),
                )
            }
            Answer::Refused(refusal) if refusal.is_retryable() || refusal.is_failure() => {
                at_first_attempt &= refusal.had_no_effect();
                None
            }
            Answer::Refused(refusal) => Some(context.ledger().refuse(operation, refusal)),
            Answer::Unknown(_) => {
                at_first_attempt = false;
                None
            }
        };
        if let Some(found) = found {
            let observer = format!("writer at node{}", reply.node + 1);
            let violation = found.err();
            violation
                .iter()
                .for_each(|finding| context.report(&operation.id, finding, &observer));
            return;
        }
        let tired =
            !at_first_attempt && context.phase() == Phase::Run && random.random_ratio(1, GIVEN_UP);
        if tired || context.phase() == Phase::Over {
            context.ledger().give_up(operation);
            return;
        }
        sleep(pause.mul_f64(random.random_range(0.5..1.5))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A random operation of the user at position `only`, or of any user.
fn plan(
    ledger: &mut Ledger,
    random: &mut SmallRng,
    only: Option<usize>,
    client_id: &str,
) -> Option<Operation> {
    let choice = random.random_range(0..100);
    let padding = match random.random_range(0..12) {
        0 => random.random_range(0..LONG),
        _ => random.random_range(0..SHORT),
    };
    let text = ledger.text(padding);
    for _ in 0..TRIES {
        let position = ledger.random_conversation(random);
        let conversation = &ledger.conversations[position];
        let member = conversation.members[random.random_range(0..conversation.members.len())];
        let user = only.unwrap_or(member);
        if !conversation.members.contains(&user) {
            continue;
        }
        let name = user_name(user);
        let action = match choice {
            0..40 => {
                let client_id = client_id.to_owned();
                let mentions = random.random_ratio(1, MENTIONING).then_some(member);
                let answers = random.random_ratio(1, ANSWERING);
                let answered = answers.then(|| some_message(conversation, random));
                let text = Text {
                    mentions,
                    answers: answered.flatten().map(|(seq, _)| seq),
                    ..text
                };
                Some((user, Action::Send { client_id, text }))
            }
            40..48 => repetition(conversation, random, &name, choice == 47, text)
                .map(|action| (user, action)),
            48..56 => {
                let head = conversation.head.acknowledged();
                let read = |seq| (user, Action::Read { seq });
                (head > 0).then(|| read(random.random_range(1..=head)))
            }
            56..61 if only.is_none() => pin(conversation, random),
            _ => change(conversation, random, (choice, only, user), text),
        };
        if let Some((user, action)) = action {
            return Some(Operation {
                conversation: position,
                id: conversation.id.clone(),
                user,
                action,
            });
        }
    }
    None
}

/// One of `name`'s messages again, or another text under its id.
fn repetition(
    conversation: &Conversation,
    random: &mut SmallRng,
    name: &str,
    clash: bool,
    other: Text,
) -> Option<Action> {
    let (seq, message) = some_message(conversation, random)?;
    let is_mine = message.sender == name;
    let client_id = message.client_id.clone().filter(|_| is_mine)?;
    let send = conversation.sends.get(&client_id)?;
    if send.is_old(conversation.old) {
        let text = send.text;
        return Some(Action::RepeatLate { client_id, text });
    }
    if clash {
        return Some(Action::Clash {
            client_id,
            text: other,
        });
    }
    Some(Action::Repeat {
        client_id,
        text: send.text,
        seq,
    })
}

/// Pins a random message or takes its pin away, as the owner.
fn pin(conversation: &Conversation, random: &mut SmallRng) -> Option<(usize, Action)> {
    let (seq, message) = some_message(conversation, random)?;
    let was_settled = message.pins.last().is_none_or(Change::is_settled);
    if message.busy || message.deletion.is_some() || !was_settled {
        return None;
    }
    let add = message.pins.last().is_none_or(|change| !change.value);
    let messages = conversation.messages.values();
    let pinned = messages.filter(|message| !message.pins.is_empty()).count();
    let is_full = add && message.pins.is_empty() && pinned >= PINNED_MAX;
    let action = Action::Pin { seq, add };
    (!is_full).then_some((conversation.owner()?, action))
}

/// A change of a random message, and the user who makes it.
fn change(
    conversation: &Conversation,
    random: &mut SmallRng,
    (choice, only, user): (u32, Option<usize>, usize),
    text: Text,
) -> Option<(usize, Action)> {
    let (seq, message) = some_message(conversation, random)?;
    if message.busy || message.deletion.is_some() {
        return None;
    }
    let author = message.sender.strip_prefix("user")?.parse().ok()?;
    let may_change = only.is_none_or(|only| only == author);
    let name = user_name(user);
    match choice {
        56..78 if may_change && message.texts.last()?.is_settled() => {
            Some((author, Action::Edit { seq, text }))
        }
        78..83 if may_change => Some((author, Action::Delete { seq })),
        83..90 => {
            let mut mine = message.reactions.iter().filter(|((_, by), _)| *by == name);
            let ((emoji, _), _) = mine.find(|(_, changes)| {
                changes
                    .last()
                    .is_some_and(|change| change.value && change.is_settled())
            })?;
            let (emoji, add) = (emoji.clone(), false);
            Some((user, Action::React { seq, emoji, add }))
        }
        90.. => {
            let emoji = format!("e{:x}", random.random_range(0..u32::MAX));
            Some((
                user,
                Action::React {
                    seq,
                    emoji,
                    add: true,
                },
            ))
        }
        _ => None,
    }
}

/// A random acknowledged message.
fn some_message<'a>(
    conversation: &'a Conversation,
    random: &mut SmallRng,
) -> Option<(u64, &'a Message)> {
    let head = conversation.head.acknowledged();
    if head == 0 {
        return None;
    }
    let seq = random.random_range(1..=head);
    let (seq, message) = conversation.messages.range(seq..).next()?;
    conversation
        .is_acknowledged(*seq, message)
        .then_some((*seq, message))
}
