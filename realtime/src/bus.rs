//! The two seams between nodes: the bus, which carries pushes, and the roster, which knows the users connected to each node.
//!
//! [`Publisher`](crate::publisher::Publisher) publishes a push on its topic after each commit. A node's
//! [`Hub`](crate::hub::Hub) subscribes to the topics of its sessions, once however many sessions listen, and receives the
//! pushes of these topics. A push is a hint and may be lost: the hub compares revs with the log (INV-PUSH). Publishing never
//! waits; a push that finds no room is dropped and counted (INV-BOUND). A crash leaves only leases and windows behind, which
//! expire.
//!
//! | module | contents |
//! |---|---|
//! | [`in_process`] | bus and roster of a single node |
//! | [`redis`](crate::redis) | bus and roster of several nodes |
//! | [`lossy`] | a bus that loses pushes, for tests |

pub mod in_process;
pub mod lossy;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, Rev, UserId};
use serde::{Deserialize, Serialize};

use crate::push::{Push, Topic};

/// How long a bus may go without a proof that pushes are received before it counts as down.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);

/// The bus or the roster cannot be used now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bus is unavailable: {0}")]
pub struct BusUnavailable(pub String);

/// Why a bus does not do all of its work now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{said}; {remedy}")]
pub struct Problem {
    /// A short word for its kind, the same for all problems with one remedy.
    pub kind: &'static str,
    /// What was met, in the server's words where it said something. Never a password.
    pub said: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Carries pushes between the nodes of a deployment.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sets the receiver of the pushes on the topics that this node subscribes to. Called once, before anything else.
    fn attach(&self, receiver: std::sync::Weak<dyn Receiver>);

    /// Whether a session may listen to `topic`. `false` spares the caller making a push.
    fn may_have_listeners(&self, topic: &Topic) -> bool;

    /// Publishes `push` to every node that has subscribed to `topic`, this one included. Never waits.
    fn publish(&self, topic: &Topic, push: &Push);

    /// Subscribes this node to `topic`; doing so again changes nothing. Pushes that are published after this returned `Ok`
    /// reach the receiver, until [`Receiver::interrupted`] is called.
    ///
    /// # Errors
    /// When the bus is down. It subscribes as soon as it is back, and then calls [`Receiver::interrupted`].
    async fn subscribe(&self, topic: Topic) -> Result<(), BusUnavailable>;

    /// Ends a subscription. Pushes that are on their way may still arrive.
    fn unsubscribe(&self, topic: &Topic);

    /// The recent changes of a conversation after `after`, in the order of their revs and without a hole; empty when the bus
    /// does not have them. The log may have more changes after the last of them.
    async fn recent(&self, conversation: ConversationId, after: Rev) -> Vec<Push>;

    /// How long ago the bus last proved that pushes are received; none for a bus that needs no proof.
    fn silence(&self) -> Option<Duration>;

    /// Why the bus does not do all of its work now, as far as it was told. It may be none while the bus is silent, and pushes
    /// may be received while there is a problem.
    fn problem(&self) -> Option<Problem>;
}

/// Receives the pushes of a bus.
pub trait Receiver: Send + Sync {
    /// Whether a session of this node listens to `topic`.
    fn listens(&self, topic: &Topic) -> bool;

    /// Receives `push`. Never waits.
    fn received(&self, topic: Topic, push: Push);

    /// Pushes may have been lost until now.
    fn interrupted(&self);
}

/// The status of a user. They are in the order of precedence: of several sessions the greatest status counts.
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
    /// Connected, without a command for 5 minutes.
    Idle,
    /// Connected, chosen by the user.
    Away,
    /// Connected, chosen by the user.
    Busy,
    /// Connected.
    Online,
}

/// The users who are connected to each node. Each node sets the statuses of its own users and renews a lease; when the lease
/// ends, the roster forgets that node's users, so that the users of a dead node go offline.
#[async_trait]
pub trait Roster: Send + Sync {
    /// Sets the statuses of users on this node; [`Status::Offline`] removes a user.
    ///
    /// # Errors
    /// When the roster is down. The next [`Roster::renew`] that succeeds returns `false`.
    async fn set(&self, users: &[(UserId, Status)]) -> Result<(), BusUnavailable>;

    /// The status of each user on the live nodes: the greatest where they differ. An absent user is offline.
    ///
    /// # Errors
    /// When the roster is down.
    async fn look_up(&self, users: &[UserId]) -> Result<HashMap<UserId, Status>, BusUnavailable>;

    /// Renews this node's lease. `false` when the roster may lack users of this node: then all have to be set again.
    ///
    /// # Errors
    /// When the roster is down.
    async fn renew(&self) -> Result<bool, BusUnavailable>;

    /// The names of the live nodes. When one of them disappears, its users may be offline.
    ///
    /// # Errors
    /// When the roster is down.
    async fn nodes(&self) -> Result<Vec<String>, BusUnavailable>;
}
