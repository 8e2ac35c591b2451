//! Which users reacted to a message with which emoji.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::model::RawJson;
use crate::text;

/// What an emoji has to be, for people.
pub(crate) const EMOJI_RULE: &str = "1 to 64 bytes of visible characters without spaces";

/// Emoji to the users who reacted with them, in their order. Every user is once with an emoji, and no emoji is without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reactions(BTreeMap<String, Vec<UserId>>);

impl Reactions {
    /// Reads stored reactions, and says whether all of them have their form; what does not is left out. Emoji that look
    /// alike are one: older versions stored them as they were sent.
    pub(crate) fn stored(json: &str) -> (Self, bool) {
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else {
            return (Self::default(), false);
        };
        let (mut reactions, mut whole) = (Self::default(), true);
        for (emoji, users) in fields {
            match (
                text::emoji(&emoji),
                serde_json::from_str::<Vec<UserId>>(users.get()),
            ) {
                (Some(emoji), Ok(users)) => users.iter().for_each(|user| {
                    reactions.add(&emoji, user);
                }),
                _ => whole = false,
            }
        }
        (reactions, whole)
    }

    /// Checks reactions that come from outside: an object of emoji, each with a list of user ids, at most `max` in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the emoji and the rule.
    pub(crate) fn check(json: &RawJson, max: u32) -> Result<Self> {
        let invalid = |rule: String| Error::invalid("reactions", rule);
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json.get())
            .map_err(|_| invalid("must be a JSON object".into()))?;
        let mut reactions = Self::default();
        for (name, users) in fields {
            let emoji = text::emoji(&name);
            let emoji = emoji.ok_or_else(|| invalid(format!("{name:?} is not {EMOJI_RULE}")))?;
            let users: Vec<UserId> = serde_json::from_str(users.get())
                .ok()
                .filter(|users: &Vec<UserId>| !users.is_empty())
                .ok_or_else(|| invalid(format!("{name:?} must have a list of user ids")))?;
            for (place, user) in users.iter().enumerate() {
                if users[..place].contains(user) {
                    return Err(invalid(format!("{name:?} names `{user}` twice")));
                }
                reactions.add(&emoji, user);
            }
        }
        if reactions.count() > max as usize {
            return Err(invalid(format!("at most {max}")));
        }
        Ok(reactions)
    }

    /// Adds a reaction; `false` when it is there.
    pub(crate) fn add(&mut self, emoji: &str, user: &UserId) -> bool {
        let users = self.0.entry(emoji.to_owned()).or_default();
        let is_new = !users.contains(user);
        if is_new {
            users.push(user.clone());
        }
        is_new
    }

    /// Removes a reaction; `false` when there is none.
    pub(crate) fn remove(&mut self, emoji: &str, user: &UserId) -> bool {
        let Some(users) = self.0.get_mut(emoji) else {
            return false;
        };
        let before = users.len();
        users.retain(|other| other != user);
        let is_gone = users.len() < before;
        self.0.retain(|_, users| !users.is_empty());
        is_gone
    }

    /// How many there are, over all emoji.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// How many of them are the user's.
    pub(crate) fn count_of(&self, user: &UserId) -> usize {
        let with_user = self.0.values().filter(|users| users.contains(user));
        with_user.count()
    }

    /// As stored and shown.
    pub(crate) fn to_json(&self) -> RawJson {
        RawJson::of(&self.0)
    }

    /// To be stored; none for none.
    pub(crate) fn into_stored(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_json().get().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<String> {
        let json = RawJson::parse(json.to_owned()).unwrap();
        Reactions::check(&json, 3).map(|reactions| reactions.to_json().get().to_owned())
    }

    #[test]
    fn what_comes_from_outside_has_the_form_of_what_is_stored() {
        assert_eq!(
            check(r#"{"👍":["bob","ann"]}"#).unwrap(),
            r#"{"👍":["bob","ann"]}"#
        );
        assert_eq!(check("{}").unwrap(), "{}");
        // What looks alike is one emoji, whoever else keeps it apart.
        let alike = check("{\"❤\":[\"ann\",\"bob\"],\"❤\u{FE0F}\":[\"bob\"]}");
        assert_eq!(alike.unwrap(), "{\"❤\u{FE0F}\":[\"ann\",\"bob\"]}");
        for wrong in [
            "[]",
            r#"{"👍":"bob"}"#,
            r#"{"👍":{"count":2,"users":["bob"]}}"#,
            r#"{"👍":null}"#,
            r#"{"👍":[7]}"#,
            r#"{"👍":[]}"#,
            r#"{"👍":["bob","bob"]}"#,
            r#"{"👍":[""]}"#,
            r#"{"":["bob"]}"#,
            r#"{"..":["bob"]}"#,
            r#"{"👍":["a","b"],"👎":["a","b"]}"#,
        ] {
            let error = check(wrong).unwrap_err().to_string();
            assert!(error.starts_with("reactions: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn of_what_is_stored_the_rest_is_kept() {
        let stored = |json: &str| {
            let (reactions, whole) = Reactions::stored(json);
            (reactions.to_json().get().to_owned(), whole)
        };
        assert_eq!(
            stored(r#"{"👍":["bob","bob"],"👎":"bob"}"#),
            (r#"{"👍":["bob"]}"#.to_owned(), false)
        );
        assert_eq!(stored(r#"["x"]"#), ("{}".to_owned(), false));
        assert_eq!(
            stored("{\"❤\":[\"ann\"],\"❤\u{FE0F}\":[\"bob\"]}"),
            ("{\"❤\u{FE0F}\":[\"ann\",\"bob\"]}".to_owned(), true)
        );
    }
}
