//! Reads of one user wait for each other, so that they do not keep everybody else waiting (INV-BOUND).
//!
//! A page or a sync may take some milliseconds of a processor. A user whose clients ask for many of them at once has
//! `limits.reads_at_once` worked on, over all their connections to this node; the others wait in the order in which they came, and
//! cost nothing meanwhile. A crash leaves nothing behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::UserId;

/// Most reads of one user that wait.
const WAITING_MAX: usize = 256;

/// The users with reads in work.
#[derive(Debug)]
pub struct Turns {
    at_once: usize,
    users: Mutex<HashMap<UserId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    reads: Arc<Semaphore>,
    /// Those that wait or are worked on.
    number: usize,
}

/// While it lives, one of its user's reads is worked on, or waits.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    user: UserId,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// For users with `at_once` reads at a time.
    #[must_use]
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            at_once: at_once.max(1),
            users: Mutex::default(),
        })
    }

    /// Waits until a read of `user` may be worked on, which it may until the turn is dropped; `None` when 256 wait already.
    pub async fn wait(self: &Arc<Self>, user: &UserId) -> Option<Turn> {
        let reads = self.enter(user)?;
        let mut turn = Turn {
            turns: Arc::clone(self),
            user: user.clone(),
            permit: None,
        };
        turn.permit = reads.acquire_owned().await.ok();
        Some(turn)
    }

    fn enter(&self, user: &UserId) -> Option<Arc<Semaphore>> {
        let mut users = self.users();
        if let Some(waiting) = users.get_mut(user) {
            if waiting.number >= self.at_once + WAITING_MAX {
                return None;
            }
            waiting.number += 1;
            return Some(Arc::clone(&waiting.reads));
        }
        let reads = Arc::new(Semaphore::new(self.at_once));
        let waiting = Waiting {
            reads: Arc::clone(&reads),
            number: 1,
        };
        users.insert(user.clone(), waiting);
        Some(reads)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Waiting>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut users = self.turns.users();
        if let Some(waiting) = users.get_mut(&self.user) {
            waiting.number -= 1;
            if waiting.number == 0 {
                users.remove(&self.user);
            }
        }
        drop(users);
        drop(self.permit.take());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[tokio::test]
    async fn a_user_waits_for_oneself_and_nobody_else() {
        let turns = Turns::new(2);
        let (alice, bob) = (user("alice"), user("bob"));
        let first = turns.wait(&alice).await.unwrap();
        let _second = turns.wait(&alice).await.unwrap();
        let mut third = Box::pin(turns.wait(&alice));
        assert!(third.as_mut().now_or_never().is_none());
        let mut fourth = Box::pin(turns.wait(&alice));
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(turns.wait(&bob).now_or_never().flatten().is_some());
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "it came later");
        assert!(third.await.is_some());
        assert!(fourth.await.is_some());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_users_without_reads() {
        let turns = Turns::new(1);
        let alice = user("alice");
        let turn = turns.wait(&alice).await.unwrap();
        drop(Box::pin(turns.wait(&alice)).now_or_never()); // the client went away
        drop(turn);
        assert!(turns.users().is_empty());
        let _turn = turns.wait(&alice).now_or_never().flatten().unwrap();
        let mut waiting: Vec<_> = (0..=WAITING_MAX)
            .map(|_| Box::pin(turns.wait(&alice)))
            .collect();
        let last = waiting.pop().unwrap();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        assert!(last.await.is_none(), "too many wait");
    }
}
