//! The seam between nodes: what one publishes, those hear who have subscribed to its topic.
//!
//! [`Publisher`](crate::publisher::Publisher) publishes after each commit; a node's [`Hub`](crate::hub::Hub) subscribes
//! to what its sessions need, once however many they are, and takes what comes. A bus is a hint and may lose anything:
//! the hub compares revs with the log (INV-PUSH). Upholds INV-BOUND: publishing never waits, and what cannot be taken is
//! dropped and counted. After a crash nothing is left but leases and windows, which expire.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, Rev, UserId};
use serde::{Deserialize, Serialize};

use crate::push::{Push, Topic};

/// The bus cannot be used just now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bus is unavailable: {0}")]
pub struct BusUnavailable(pub String);

/// Carries pushes between the nodes of a deployment.
#[async_trait]
pub trait Bus: Send + Sync {
    /// From now on `receiver` is given what is published to the topics this node has subscribed to. Called once, before
    /// anything else.
    fn attach(&self, receiver: std::sync::Weak<dyn Receiver>);

    /// Whether somebody may be listening to `topic`; where `false`, there is no need to make a push.
    fn may_be_heard(&self, topic: &Topic) -> bool;

    /// Tells `push` to every node that listens to `topic`, this one included. It never waits.
    fn publish(&self, topic: &Topic, push: &Push);

    /// Subscribes this node to `topic`; doing so again changes nothing. What is published after this has returned `Ok`
    /// reaches the receiver, until [`Receiver::interrupted`] says otherwise.
    ///
    /// # Errors
    /// When that cannot be had just now. The subscription is kept: it holds from when the bus is back, which
    /// [`Receiver::interrupted`] tells.
    async fn subscribe(&self, topic: Topic) -> Result<(), BusUnavailable>;

    /// Ends a subscription. Something may still come.
    fn unsubscribe(&self, topic: &Topic);

    /// The changes of a conversation after `after` that were published lately on any node, in the order of their revs and
    /// without a hole between the first and the last; empty when they are not known. Where it ends says nothing about the log.
    async fn recent(&self, conversation: ConversationId, after: Rev) -> Vec<Push>;

    /// How long ago it was last proven that what this node publishes is received; none when there is nothing to prove.
    fn silence(&self) -> Option<Duration>;
}

/// Takes what a bus brings.
pub trait Receiver: Send + Sync {
    /// Whether this node listens to `topic`.
    fn listens(&self, topic: &Topic) -> bool;

    /// Takes `push`. It never waits.
    fn received(&self, topic: Topic, push: Push);

    /// Anything may have been lost until now.
    fn interrupted(&self);
}

/// What a user shows of themselves while they are connected.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not connected, or hidden.
    #[default]
    Offline,
    /// Connected, without a command for a while.
    Idle,
    /// Said so.
    Away,
    /// Said so.
    Busy,
    /// Connected.
    Online,
}

/// Who is connected to which node. What a node has told is forgotten when it no longer renews its lease, so that a
/// node's death takes its users offline without anybody's help.
#[async_trait]
pub trait Roster: Send + Sync {
    /// Sets the status of users who are connected to this node; [`Status::Offline`] takes them out.
    ///
    /// # Errors
    /// When the roster is away. It is told again by [`Roster::renew`].
    async fn set(&self, users: &[(UserId, Status)]) -> Result<(), BusUnavailable>;

    /// The status of each user on any live node: the greatest where they differ. Who is absent is offline.
    ///
    /// # Errors
    /// When the roster is away.
    async fn look_up(&self, users: &[UserId]) -> Result<HashMap<UserId, Status>, BusUnavailable>;

    /// Renews this node's lease. `false` when the roster had forgotten this node: then everything has to be set again.
    ///
    /// # Errors
    /// When the roster is away.
    async fn renew(&self) -> Result<bool, BusUnavailable>;

    /// The live nodes. When one is missing that was there before, its users may be offline.
    ///
    /// # Errors
    /// When the roster is away.
    async fn nodes(&self) -> Result<Vec<String>, BusUnavailable>;
}
