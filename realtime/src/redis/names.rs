//! The names of channels and keys.
//!
//! Every name has one of 256 partitions in the braces that Redis Cluster hashes by: `backscroll.{bs017}.c:…`. All names of one
//! topic have the same partition, so that the topics can be spread over several servers without new names.

use backscroll_shard::ids::ConversationId;
use twox_hash::XxHash3_64;

use crate::push::Topic;

/// The number of partitions. It must never change: nodes of two versions would no longer find each other.
const PARTITIONS: u64 = 256;

/// The names of one deployment.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}.{{bs"),
        }
    }

    fn within(&self, partition: u64, name: &str) -> String {
        format!("{}{partition:03}}}.{name}", self.prefix)
    }

    /// The channel of `topic`.
    pub(super) fn channel(&self, topic: &Topic) -> String {
        let text = topic.to_string();
        self.within(partition(&text), &text)
    }

    /// The topic of `channel`; none when it is not a topic's.
    pub(super) fn topic(&self, channel: &str) -> Option<Topic> {
        let (_partition, text) = channel.strip_prefix(&self.prefix)?.split_once("}.")?;
        text.parse().ok()
    }

    /// The list of a conversation's latest changes.
    pub(super) fn window(&self, conversation: ConversationId) -> String {
        let topic = Topic::Conversation(conversation).to_string();
        self.within(partition(&topic), &format!("w:{conversation}"))
    }

    /// The channel of a process's own canaries, and the key that it writes to learn whether Redis takes writes.
    pub(super) fn canary(&self, origin: &str) -> String {
        let text = format!("n:{origin}");
        self.within(partition(&text), &text)
    }

    /// The set of the processes' names.
    pub(super) fn nodes(&self) -> String {
        self.within(partition("nodes"), "nodes")
    }

    /// The hash of the users who are connected to `node`.
    pub(super) fn roster(&self, node: &str) -> String {
        let text = format!("r:{node}");
        self.within(partition(&text), &text)
    }
}

fn partition(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes()) % PARTITIONS
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{UserId, UserKey};

    use super::*;

    fn conversation() -> ConversationId {
        ConversationId::new(UserKey(7), 9)
    }

    #[test]
    fn names_stay_as_they_are() {
        let names = Names::new("backscroll");
        let id = "00000000000000070000000000000009";
        assert_eq!(
            names.channel(&Topic::Conversation(conversation())),
            format!("backscroll.{{bs199}}.c:{id}")
        );
        assert_eq!(
            names.window(conversation()),
            format!("backscroll.{{bs199}}.w:{id}")
        );
        assert_eq!(names.nodes(), "backscroll.{bs044}.nodes");
    }

    #[test]
    fn topics_read_back_and_nothing_else_does() {
        let names = Names::new("a.b");
        let user = UserId::new("}.x {bs} ü").unwrap();
        for topic in [
            Topic::User(user.clone()),
            Topic::Presence(user),
            Topic::Conversation(conversation()),
        ] {
            assert_eq!(names.topic(&names.channel(&topic)), Some(topic));
        }
        let channel = names.channel(&Topic::Conversation(conversation()));
        assert_eq!(Names::new("a").topic(&channel), None);
        for other in [names.canary("x"), names.nodes(), String::new()] {
            assert_eq!(names.topic(&other), None, "{other}");
        }
    }

    #[test]
    fn topics_are_spread_over_all_partitions() {
        let mut seen = std::collections::HashSet::new();
        for user in 0..5000 {
            seen.insert(partition(&format!("u:{user}")));
        }
        assert_eq!(seen.len() as u64, PARTITIONS);
    }
}
