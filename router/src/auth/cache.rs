//! Tokens that were found valid, so that the same one is not checked again for every request.
//!
//! An entry holds no longer than its token, and no longer than the set of keys it was checked with. Only what was found
//! valid is kept, under the whole token: another token is another entry, whatever it hashes to. What is asked for after an
//! entry has ended is checked from the start, so the cache never decides that a token is not valid.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::Identity;

/// Longest token that is kept, in bytes; longer ones are checked every time.
const KEPT_MAX_BYTES: usize = 2048;

/// Valid tokens, at most so many (INV-BOUND).
pub(super) struct TokenCache {
    tokens: RwLock<HashMap<Box<str>, Entry>>,
    capacity: usize,
}

struct Entry {
    identity: Identity,
    generation: u64,
}

impl TokenCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            tokens: RwLock::default(),
            capacity,
        }
    }

    /// Whose `token` is, if it was found valid with the keys of this generation and has not ended at `now`, in seconds
    /// since 1970.
    pub(super) fn get(&self, token: &str, generation: u64, now: u64) -> Option<Identity> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let entry = tokens.get(token)?;
        let holds = entry.generation == generation && now < entry.identity.expires_at;
        holds.then(|| entry.identity.clone())
    }

    /// Keeps a valid token. When there is no room, all others are forgotten first.
    pub(super) fn put(&self, token: &str, generation: u64, identity: &Identity) {
        if self.capacity == 0 || token.len() > KEPT_MAX_BYTES {
            return;
        }
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= self.capacity {
            tokens.clear();
        }
        let entry = Entry {
            identity: identity.clone(),
            generation,
        };
        tokens.insert(token.into(), entry);
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::UserId;

    use super::*;

    fn identity(expires_at: u64) -> Identity {
        Identity {
            user: UserId::new("ann").unwrap(),
            staff: crate::auth::StaffRoles::default(),
            issued_at: None,
            expires_at,
            key: None,
        }
    }

    #[test]
    fn a_token_is_known_until_it_ends_or_the_keys_change() {
        let cache = TokenCache::new(10);
        cache.put("token", 1, &identity(100));
        assert_eq!(cache.get("token", 1, 99), Some(identity(100)));
        assert_eq!(cache.get("token", 1, 100), None);
        assert_eq!(cache.get("token", 2, 99), None);
        assert_eq!(cache.get("tokeN", 1, 99), None);
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let cache = TokenCache::new(2);
        for n in 0..5 {
            let token = n.to_string();
            cache.put(&token, 0, &identity(100));
            assert!(cache.get(&token, 0, 0).is_some());
            assert!(cache.tokens.read().unwrap().len() <= 2);
        }
        cache.put(&"x".repeat(KEPT_MAX_BYTES + 1), 0, &identity(100));
        assert_eq!(cache.tokens.read().unwrap().len(), 1);
        let none = TokenCache::new(0);
        none.put("token", 0, &identity(100));
        assert!(none.get("token", 0, 0).is_none());
    }
}
