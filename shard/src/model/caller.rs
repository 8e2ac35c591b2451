//! Who calls.

use std::time::{Duration, Instant};

use crate::ids::UserId;

/// Who calls, and until when an answer is of use.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The authenticated user.
    pub user: UserId,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

impl Caller {
    /// `user`, waiting for `patience` from now.
    #[must_use]
    pub fn new(user: UserId, patience: Duration) -> Self {
        Self {
            user,
            deadline: Instant::now() + patience,
        }
    }
}
