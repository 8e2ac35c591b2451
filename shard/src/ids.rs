//! Newtypes for ids and counters, and the key functions that place users on the key space.
//!
//! A conversation id is `owner key (u64, big-endian) ‖ 64 bits`, so an id alone says which key range, and with the
//! shard map which shard, it belongs to: a key range is one contiguous stretch of every table's primary key.

mod conversation;
mod counter;
mod media;
mod notification;
mod report;
mod shard;
mod user;

pub use conversation::{ConversationId, MessageId};
pub use counter::{COUNTER_MAX, Epoch, Incarnation, Rev, Seq};
pub use media::MediaId;
pub use notification::NotificationId;
pub use report::ReportId;
pub use shard::ShardName;
pub use user::{KeyFunction, USER_ID_MAX_BYTES, UserId, UserKey};

/// An id that does not have the required form. The text says what is wrong, without repeating the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(pub &'static str);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twox_hash::XxHash3_64;

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn hashed(user: &UserId) -> (&UserId, UserKey) {
        (user, KeyFunction::Hashed.key(user).unwrap())
    }

    #[test]
    fn numeric_keys_accept_one_spelling_only() {
        let key = |text: &str| KeyFunction::Numeric.key(&user(text));
        assert_eq!(key("0").unwrap(), UserKey(0));
        assert_eq!(key("18446744073709551615").unwrap(), UserKey(u64::MAX));
        for wrong in [
            "07",
            "+7",
            "-1",
            "alice",
            "18446744073709551616",
            "1e3",
            " 1",
            "٣",
        ] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn user_ids_are_bounded_and_printable() {
        assert!(UserId::new("").is_err());
        assert!(UserId::new("a\0b").is_err());
        assert!(UserId::new("é".repeat(33)).is_err());
        assert!(UserId::new("日本語 😀").is_ok());
    }

    #[test]
    fn the_key_of_a_user_never_changes() {
        // Published values: a different hash would place every stored user on another shard.
        assert_eq!(
            hashed(&user("alice")).1,
            UserKey(XxHash3_64::oneshot(b"alice"))
        );
        assert_eq!(XxHash3_64::oneshot(b""), 0x2d06_8005_38d3_94c2); // XXH3-64 of the empty input, from its specification
    }

    proptest! {
        #[test]
        fn ids_read_back(owner: u64, low: u64, seq in 1..=COUNTER_MAX) {
            let conversation = ConversationId::new(UserKey(owner), low);
            prop_assert_eq!(conversation.owner_key(), UserKey(owner));
            prop_assert_eq!(conversation.to_string().parse::<ConversationId>().unwrap(), conversation);
            let id = MessageId { conversation, seq: Seq(seq) };
            prop_assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        }

        #[test]
        fn conversation_ids_sort_by_owner_key(a: u64, b: u64, low_a: u64, low_b: u64) {
            prop_assume!(a < b);
            prop_assert!(ConversationId::new(UserKey(a), low_a) < ConversationId::new(UserKey(b), low_b));
        }

        #[test]
        fn direct_ids_are_symmetric_and_live_with_the_smaller_key(a in "[a-z0-9]{1,20}", b in "[a-z0-9]{1,20}") {
            let (a, b) = (user(&a), user(&b));
            let (left, right) = (hashed(&a), hashed(&b));
            let id = ConversationId::direct(left, right, 0);
            prop_assert_eq!(id, ConversationId::direct(right, left, 0));
            prop_assert_eq!(id.owner_key(), left.1.min(right.1));
            prop_assert_ne!(id, ConversationId::direct(left, right, 1));
        }

        #[test]
        fn parsing_never_panics_and_accepts_only_the_canonical_form(text in ".{0,60}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            if let Ok(id) = text.parse::<ConversationId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
