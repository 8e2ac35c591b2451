//! Whether a message is what a query looks for, and where in its text.

use std::ops::Range;

use super::fold::fold;
use super::query::Query;
use crate::message::{StoredMessage, has_attachment};
use crate::model::{MediaKind, MessageType, SearchHas};

/// Most ranges of one hit.
const RANGES_MAX: usize = 64;

/// How addresses of web pages begin, folded.
const LINKS: [&str; 3] = ["https://", "http://", "www."];

impl Query {
    /// Where the words are in the text of `message`, in UTF-16 units; `None` when it is not looked for. `folded` is room for the
    /// folded text, which callers keep from message to message.
    pub(super) fn find(
        &self,
        message: &StoredMessage,
        folded: &mut String,
    ) -> Option<Vec<[u32; 2]>> {
        if message.deleted_at.is_some() || !self.fits(message) {
            return None;
        }
        if self.terms.is_empty() {
            return Some(Vec::new());
        }
        fold(&message.content, folded, |_, _| {});
        let contains_all = self
            .terms
            .iter()
            .all(|term| term.find(folded.as_bytes()).is_some());
        contains_all.then(|| self.ranges(&message.content, folded))
    }

    /// Whether the filters fit.
    fn fits(&self, message: &StoredMessage) -> bool {
        let at = message.created_at;
        (self.senders.is_empty() || self.senders.contains(&message.sender))
            && self.before.is_none_or(|before| at < before)
            && self.after.is_none_or(|after| at >= after)
            && self.has.iter().all(|has| carries(message, *has))
    }

    /// Where the terms are in `text`; where they overlap or touch, one range. `folded` is room as in [`Query::find`].
    fn ranges(&self, text: &str, folded: &mut String) -> Vec<[u32; 2]> {
        let mut clusters: Vec<(usize, Range<usize>)> = Vec::new();
        fold(text, folded, |begin, bytes| clusters.push((begin, bytes)));
        let cluster = |place: usize| {
            let after = clusters.partition_point(|(begin, _)| *begin <= place);
            clusters.get(after.checked_sub(1)?).map(|it| it.1.clone())
        };
        let mut found: Vec<(usize, usize)> = Vec::new();
        for term in &self.terms {
            let length = term.needle().len();
            let places = term.find_iter(folded.as_bytes()).take(RANGES_MAX);
            found.extend(places.filter_map(|place| {
                let (first, last) = (cluster(place)?, cluster(place + length - 1)?);
                Some((first.start, last.end))
            }));
        }
        found.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (start, end) in found {
            match merged.last_mut() {
                Some(before) if start <= before.1 => before.1 = before.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged.truncate(RANGES_MAX);
        in_utf16(text, &merged)
    }
}

/// Ranges of bytes of `text`, in order and apart, in UTF-16 units.
fn in_utf16(text: &str, ranges: &[(usize, usize)]) -> Vec<[u32; 2]> {
    let mut counted = (0, 0_u32); // so many bytes are so many units
    let mut units = |byte: usize| {
        let between = text.get(counted.0..byte).unwrap_or_default();
        let between = u32::try_from(between.encode_utf16().count()).unwrap_or(u32::MAX);
        counted = (byte, counted.1.saturating_add(between));
        counted.1
    };
    ranges
        .iter()
        .map(|(start, end)| [units(*start), units(*end)])
        .collect()
}

/// Whether a message has something beside its text.
fn carries(message: &StoredMessage, has: SearchHas) -> bool {
    let is_of_type = |kind| message.message_type == kind;
    let attached = |kind| {
        let attachments = message.attachments.as_deref();
        attachments.is_some_and(|it| has_attachment(it, message.message_type, kind))
    };
    match has {
        SearchHas::Link => has_link(&message.content),
        SearchHas::Image => is_of_type(MessageType::Image) || attached(MediaKind::Image),
        SearchHas::Voice => is_of_type(MessageType::Voice) || attached(MediaKind::Voice),
        SearchHas::File => is_of_type(MessageType::File) || attached(MediaKind::File),
    }
}

fn has_link(text: &str) -> bool {
    text.split_whitespace().any(|word| {
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        LINKS.iter().any(|link| {
            let start = word.as_bytes().get(..link.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(link.as_bytes()))
                && word.len() > link.len()
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fold::folded;
    use super::*;
    use crate::ids::{Rev, Seq, UserId};
    use crate::model::{SearchRequest, Timestamp};

    fn message(content: &str) -> StoredMessage {
        StoredMessage {
            seq: Seq(1),
            rev: Rev(1),
            sender: UserId::new("alice").unwrap(),
            client_msg_id: None,
            body_digest: None,
            message_type: MessageType::Text,
            content: content.to_owned(),
            reply_to: None,
            attachments: None,
            reactions: None,
            metadata: None,
            edit_history: None,
            created_at: Timestamp(1_000),
            edited_at: None,
            deleted_at: None,
            pin: None,
            mentions: None,
        }
    }

    fn query(q: &str) -> Query {
        let q = q.to_owned();
        Query::of(&SearchRequest {
            q,
            ..SearchRequest::default()
        })
        .unwrap()
    }

    fn find(q: &str, message: &StoredMessage) -> Option<Vec<[u32; 2]>> {
        query(q).find(message, &mut String::new())
    }

    /// The parts of the text that the ranges say, as JavaScript cuts them.
    fn parts(q: &str, text: &str) -> Option<Vec<String>> {
        let units: Vec<u16> = text.encode_utf16().collect();
        let ranges = find(q, &message(text))?;
        let cut = |[start, end]: [u32; 2]| {
            String::from_utf16(&units[start as usize..end as usize]).unwrap()
        };
        Some(ranges.into_iter().map(cut).collect())
    }

    #[test]
    fn words_are_found_in_any_language() {
        for (q, text, expected) in [
            ("brulee", "Une CRÈME Brûlée!", vec!["Brûlée"]),
            ("strasse", "Hauptstraße 3", vec!["straße"]),
            ("s", "ß", vec!["ß"]),
            (
                "istanbul",
                "İSTANBUL, Istanbul ve ıstanbul",
                vec!["İSTANBUL", "Istanbul", "ıstanbul"],
            ),
            ("タワー", "東京ﾀﾜｰの夜", vec!["ﾀﾜｰ"]),
            ("京", "東京タワー", vec!["京"]),
            ("天气", "今天天气很好", vec!["天气"]),
            ("ไทย", "ภาษาไทยง่าย", vec!["ไทย"]),
            ("محمد", "قال مُحَمَّد", vec!["مُحَمَّد"]),
            ("👍", "👍🏽 👩\u{200D}❤\u{FE0F}\u{200D}👨", vec!["👍"]),
            (
                "❤",
                "x 👩\u{200D}❤\u{FE0F}\u{200D}👨",
                vec!["❤\u{FE0F}\u{200D}"],
            ),
            ("b 😀", "a", vec![]),
            ("cafe", "cafe\u{301} 😀 café", vec!["cafe\u{301}", "café"]),
            ("하나", "둘 하나", vec!["하나"]),
            ("ell wor", "Hello World", vec!["ell", "Wor"]),
            ("\"lo w\"", "Hello \n World", vec!["lo \n W"]),
            ("aa", "aaaa", vec!["aaaa"]),
        ] {
            let found = parts(q, text);
            match expected.is_empty() {
                true => assert_eq!(found, None, "{q} in {text}"),
                false => assert_eq!(found.unwrap(), expected, "{q} in {text}"),
            }
        }
        for (q, text) in [
            ("か", "がぎ"),
            ("하", "한국"),
            ("ใกล้", "ไกล"),
            ("hello mars", "hello world"),
            ("\"world hello\"", "hello world"),
        ] {
            assert_eq!(find(q, &message(text)), None, "{q} in {text}");
        }
    }

    #[test]
    fn filters_narrow_and_give_no_ranges() {
        let text = message("see (HTTPS://example.com)");
        assert_eq!(find("has:link", &text), Some(vec![]));
        assert_eq!(find("has:link from:bob", &text), None);
        assert_eq!(find("from:bob from:alice", &text), Some(vec![]));
        assert_eq!(find("before:1970-01-01T00:00:01Z", &text), None);
        assert_eq!(find("after:1970-01-01T00:00:01Z", &text), Some(vec![]));
        assert_eq!(find("has:link", &message("https:// www. http")), None);
        let picture = StoredMessage {
            attachments: Some(r#"[{"kind":"image"},{"url":"x"}]"#.into()),
            ..message("")
        };
        assert_eq!(find("has:image", &picture), Some(vec![]));
        assert_eq!(find("has:file", &picture), Some(vec![]));
        assert_eq!(find("has:voice", &picture), None);
        let deleted = StoredMessage {
            deleted_at: Some(Timestamp(2)),
            ..text
        };
        assert_eq!(find("from:alice", &deleted), None);
    }

    #[test]
    fn ranges_are_bounded() {
        let text = "ab ".repeat(200);
        assert_eq!(find("a b", &message(&text)).unwrap().len(), RANGES_MAX);
    }

    /// Every place where the folded text has the term, by comparing at each.
    fn is_found(terms: &[String], text: &str) -> bool {
        let text: Vec<char> = folded(text).chars().collect();
        terms.iter().all(|term| {
            let term: Vec<char> = folded(term).trim().chars().collect();
            text.windows(term.len()).any(|window| window == term)
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_every_place_says(text in "[aAbé ßが한日]{0,12}", terms in prop::collection::vec("[aAbéß한日]{1,3}", 1..3)) {
            let found = find(&terms.join(" "), &message(&text));
            prop_assert_eq!(found.is_some(), is_found(&terms, &text), "{:?} in {:?}", terms, text);
        }

        #[test]
        fn ranges_hold_what_was_looked_for(text in "[aAbéß が한日😀\u{301}]{1,16}", term in "[aAbéß한日😀]{1,2}") {
            for part in parts(&term, &text).unwrap_or_default() {
                prop_assert!(folded(&part).contains(folded(&term).trim()), "{:?} for {:?}", part, term);
            }
        }

        #[test]
        fn any_text_is_found_by_itself(text in "\\PC{1,24}") {
            let word = format!("\"{}\"", text.replace(['"', '“', '”', '„'], " "));
            prop_assume!(!folded(&word[1..word.len() - 1]).trim().is_empty());
            let content = word[1..word.len() - 1].to_owned();
            prop_assert!(find(&word, &message(&content)).is_some());
        }
    }
}
