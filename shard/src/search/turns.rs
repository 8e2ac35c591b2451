//! Searches are a class of work of their own: a node works on a few at once, and on one of each user, so that they do not keep
//! sends and pages waiting (INV-BOUND).

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::turns::{Turn, Turns};

/// How many searches may wait for each that is worked on.
const WAITING: usize = 16;

/// The searches of a node.
#[derive(Debug)]
pub(crate) struct SearchTurns {
    users: Arc<Turns>,
    most: usize,
    places: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

/// While it lives, a search is worked on.
#[derive(Debug)]
pub(crate) struct SearchTurn {
    _user: Turn,
    _place: OwnedSemaphorePermit,
    _working: OwnedSemaphorePermit,
}

impl SearchTurns {
    /// For a node that works on `at_once` searches.
    pub(crate) fn new(at_once: u32) -> Self {
        let at_once = at_once.max(1) as usize;
        let most = at_once * (1 + WAITING);
        Self {
            users: Turns::new(1),
            most,
            places: Arc::new(Semaphore::new(most)),
            working: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// How many searches are worked on or wait for that; those that wait for another of their user left out.
    pub(crate) fn number(&self) -> usize {
        self.most - self.places.available_permits()
    }

    /// Waits until a search of `user` may begin.
    ///
    /// # Errors
    /// [`Error::SearchesFull`], [`Error::DeadlineExceeded`].
    pub(crate) async fn wait(&self, user: &UserId, deadline: Instant) -> Result<SearchTurn> {
        let turn = async {
            let user = self.users.wait(user).await.ok_or(Error::SearchesFull)?;
            let place = Arc::clone(&self.places).try_acquire_owned();
            let place = place.map_err(|_| Error::SearchesFull)?;
            let working = Arc::clone(&self.working).acquire_owned().await;
            Ok(SearchTurn {
                _user: user,
                _place: place,
                _working: working.map_err(|_| Error::Closing)?,
            })
        };
        let turn = timeout_at(deadline.into(), turn).await;
        turn.unwrap_or(Err(Error::DeadlineExceeded))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_searches_once_at_a_time_and_a_node_a_few_times() {
        let turns = SearchTurns::new(2);
        let soon = || Instant::now() + Duration::from_secs(1);
        let alice = turns.wait(&user("alice"), soon()).await.unwrap();
        let again = turns.wait(&user("alice"), soon()).await;
        assert!(matches!(again, Err(Error::DeadlineExceeded)), "{again:?}");
        let _bob = turns.wait(&user("bob"), soon()).await.unwrap();
        let carol = turns.wait(&user("carol"), soon()).await;
        assert!(matches!(carol, Err(Error::DeadlineExceeded)), "{carol:?}");
        drop(alice);
        turns.wait(&user("alice"), soon()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn searches_do_not_wait_without_end() {
        let turns = SearchTurns::new(1);
        let later = Instant::now() + Duration::from_secs(60);
        let users: Vec<UserId> = (0..=WAITING).map(|n| user(&format!("user{n}"))).collect();
        let first = turns.wait(&users[0], later).await.unwrap();
        let others = users[1..]
            .iter()
            .map(async |user| drop(turns.wait(user, later).await.unwrap()));
        let one_more = async {
            assert_eq!(turns.number(), 1 + WAITING);
            let refused = turns.wait(&user("late"), later).await;
            assert!(matches!(refused, Err(Error::SearchesFull)), "{refused:?}");
            drop(first);
        };
        tokio::join!(futures_util::future::join_all(others), one_more);
        assert_eq!(turns.number(), 0);
    }
}
