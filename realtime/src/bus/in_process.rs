//! Bus and roster of a single node.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, Rev, UserId};

use crate::bus::{Bus, BusUnavailable, Problem, Receiver, Roster, Status};
use crate::push::{Push, Topic};

/// The bus of a single node. It loses no push and keeps none.
#[derive(Default)]
pub struct InProcessBus {
    receiver: OnceLock<Weak<dyn Receiver>>,
}

#[async_trait]
impl Bus for InProcessBus {
    fn attach(&self, receiver: Weak<dyn Receiver>) {
        let _ = self.receiver.set(receiver);
    }

    fn may_have_listeners(&self, topic: &Topic) -> bool {
        let receiver = self.receiver.get().and_then(Weak::upgrade);
        receiver.is_some_and(|receiver| receiver.listens(topic))
    }

    fn publish(&self, topic: &Topic, push: &Push) {
        if let Some(receiver) = self.receiver.get().and_then(Weak::upgrade) {
            receiver.received(topic.clone(), push.clone());
        }
    }

    async fn subscribe(&self, _topic: Topic) -> Result<(), BusUnavailable> {
        Ok(())
    }

    fn unsubscribe(&self, _topic: &Topic) {}

    async fn recent(&self, _conversation: ConversationId, _after: Rev) -> Vec<Push> {
        Vec::new()
    }

    fn silence(&self) -> Option<Duration> {
        None
    }

    fn problem(&self) -> Option<Problem> {
        None
    }
}

/// The roster of a single node.
#[derive(Debug, Default)]
pub struct InProcessRoster {
    users: Mutex<HashMap<UserId, Status>>,
}

#[async_trait]
impl Roster for InProcessRoster {
    async fn set(&self, changed: &[(UserId, Status)]) -> Result<(), BusUnavailable> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for (user, status) in changed {
            match status {
                Status::Offline => drop(users.remove(user)),
                status => drop(users.insert(user.clone(), *status)),
            }
        }
        Ok(())
    }

    async fn look_up(&self, asked: &[UserId]) -> Result<HashMap<UserId, Status>, BusUnavailable> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |user: &UserId| Some((user.clone(), *users.get(user)?));
        Ok(asked.iter().filter_map(known).collect())
    }

    async fn renew(&self) -> Result<bool, BusUnavailable> {
        Ok(true)
    }

    async fn nodes(&self) -> Result<Vec<String>, BusUnavailable> {
        Ok(vec!["this".to_owned()])
    }
}
