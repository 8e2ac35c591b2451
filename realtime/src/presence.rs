//! Presence: which users are online, for the sessions that watch them.
//!
//! | module | does |
//! |---|---|
//! | [`local`] | the users of this node, and which statuses were published |
//! | [`keeper`] | sets them in the roster, publishes changes, answers which users are online |
//! | [`fan_out`] | delivers presence to the sessions of this node that watch |
//! | [`watchers`] | the state of one user's presence topic |
//! | [`members`] | the members of a small conversation, for sessions that watch nobody by name |
//!
//! A node sets the statuses of its own users in the roster and publishes their changes on their presence topics. Watchers are
//! sessions that named the user, and sessions that opened a small conversation with the user and named nobody. All of it is a
//! hint. What a node believes about users of other nodes is made up for in these ways:
//!
//! | belief | is corrected by |
//! |---|---|
//! | a watched user of another node is online | the end of that node's lease: its watched users are looked up in the roster |
//! | the roster has this node's users | the next renewal of the lease, which says when the roster may lack some: all are set again |
//! | a user was last seen at a time | the store, where it is saved when the user goes offline |
//!
//! A crash leaves the node's users in the roster until its lease ends.

pub(crate) mod fan_out;
pub(crate) mod keeper;
pub(crate) mod local;
pub(crate) mod members;
pub(crate) mod watchers;
