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
//! sessions that named the user, and sessions that opened a small conversation with the user and named nobody.
//!
//! Presence is a hint, without a log behind it. What nodes believe about each other's users, and what corrects it:
//!
//! | belief | corrected by |
//! |---|---|
//! | the watchers' node: a user of another node has this status | the user's next change; a comparison of all watched users with the roster, every 15 s, sooner when a node is gone or the roster was away. A user whom the roster lacks is offline after 10 s more |
//! | the roster: a node's users have these statuses | the next renewal of that node's lease, which says when the roster may lack some: all are set again |
//! | this node: a user who left is offline in the roster | asked again every second until the roster has it |
//!
//! A crash leaves the node's users in the roster until its lease ends.

pub(crate) mod fan_out;
pub(crate) mod keeper;
pub(crate) mod local;
pub(crate) mod members;
pub(crate) mod watchers;
