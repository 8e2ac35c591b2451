//! The queue of a session's commands that wait for those before them, bounded in number and bytes (INV-BOUND).
//!
//! Engine.IO hands packets over as they arrive, so that a flood cannot wait in the client's own buffers as with the native
//! door. A client that fills its queue is closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use crate::door::Command;
use crate::protocol::Close;

/// Most commands that wait.
const COMMANDS_MAX: usize = 256;

/// The commands of one session.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    wake: AtomicWaker,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    bytes: usize,
    /// Takes no more commands; and the reason, when the server closes the connection.
    ended: Option<Option<Close>>,
}

impl Queue {
    fn take(&mut self, wanted: impl Fn(&Command) -> bool) -> Option<Command> {
        self.commands.front().filter(|command| wanted(command))?;
        let command = self.commands.pop_front()?;
        self.bytes -= command.name.len() + command.data.len();
        if self.commands.is_empty() {
            self.commands = VecDeque::new(); // an idle connection keeps no memory
        }
        Some(command)
    }
}

impl Inbox {
    /// An empty queue for at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            wake: AtomicWaker::new(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command; ends the queue when there is no room.
    pub(super) fn put(&self, command: Command) {
        let mut queue = self.lock();
        if queue.ended.is_some() {
            return;
        }
        let bytes = command.name.len() + command.data.len();
        if queue.commands.len() >= COMMANDS_MAX || queue.bytes + bytes > self.limit {
            drop(queue);
            return self.end(Some(Close::RateLimited));
        }
        queue.bytes += bytes;
        queue.commands.push_back(command);
        drop(queue);
        self.wake.wake();
    }

    /// Takes no more commands and drops those that wait. With a `reason`, the connection is to be closed.
    pub(super) fn end(&self, reason: Option<Close>) {
        let mut queue = self.lock();
        queue.ended.get_or_insert(reason);
        queue.commands = VecDeque::new();
        queue.bytes = 0;
        drop(queue);
        self.wake.wake();
    }

    /// Whether the queue has ended.
    pub(super) fn ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Waits for the next command. One reader at a time.
    ///
    /// # Errors
    /// The end of the queue, and its reason.
    pub(super) async fn next(&self) -> Result<Command, Option<Close>> {
        poll_fn(|context| {
            self.wake.register(context.waker());
            let mut queue = self.lock();
            if let Some(reason) = queue.ended {
                return Poll::Ready(Err(reason));
            }
            queue
                .take(|_| true)
                .map_or(Poll::Pending, |command| Poll::Ready(Ok(command)))
        })
        .await
    }

    /// The next command, if it waits already and is `wanted`.
    pub(super) fn next_if(&self, wanted: impl Fn(&Command) -> bool) -> Option<Command> {
        self.lock().take(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str) -> Command {
        Command {
            name: name.into(),
            data: "{}".into(),
            ack: None,
            binary: false,
        }
    }

    #[tokio::test]
    async fn commands_come_in_order_until_the_end() {
        let inbox = Inbox::new(1000);
        inbox.put(command("a"));
        inbox.put(command("b"));
        assert_eq!(inbox.next().await, Ok(command("a")));
        assert_eq!(inbox.next().await, Ok(command("b")));
        inbox.put(command("c"));
        assert_eq!(inbox.next_if(|next| *next.name == *"d"), None);
        assert_eq!(inbox.next_if(|next| *next.name == *"c"), Some(command("c")));
        inbox.put(command("d"));
        inbox.end(None);
        assert_eq!(inbox.next_if(|_| true), None);
        assert!(inbox.ended());
        assert_eq!(inbox.next().await, Err(None));
    }

    #[tokio::test]
    async fn a_flood_ends_the_queue() {
        let many = Inbox::new(1 << 20);
        for _ in 0..=COMMANDS_MAX {
            many.put(command("a"));
        }
        assert_eq!(many.next().await, Err(Some(Close::RateLimited)));
        let large = Inbox::new(10);
        for _ in 0..4 {
            large.put(command("a"));
        }
        assert_eq!(large.next().await, Err(Some(Close::RateLimited)));
    }
}
