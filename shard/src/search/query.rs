//! Queries: what a user types, and what it asks for.
//!
//! Words are separated by white space, and all of them have to be in a message, anywhere, also inside other words. Words between
//! quotation marks are one phrase. A word of the form `name:value` with one of the names of [`Query::filter`] and a value that fits is a
//! filter; everything else is literal, so no query is a syntax error. A filter between quotation marks is literal, too.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use memchr::memmem::Finder;

use super::fold::folded;
use super::terms::Pieces;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::model::{SearchHas, SearchRequest, Timestamp};

/// Most bytes of a query.
const QUERY_MAX_BYTES: usize = 1024;
/// Most words and phrases of a query.
const TERMS_MAX: usize = 16;
/// Most senders, and most conversations, that a query names.
const NAMED_MAX: usize = 20;

/// What a search looks for.
#[derive(Debug, Default)]
pub(crate) struct Query {
    /// Words and phrases, all of which a message has to contain.
    pub(super) terms: Vec<Finder<'static>>,
    /// What the terms of a message that has them contain.
    pub(crate) pieces: Pieces,
    /// One of these has sent it; any user where there are none.
    pub(super) senders: Vec<UserId>,
    /// Where to search; everywhere where there are none.
    pub(crate) conversations: BTreeSet<ConversationId>,
    /// It was sent before then.
    pub(super) before: Option<Timestamp>,
    /// It was sent then or later.
    pub(super) after: Option<Timestamp>,
    /// It has all of these.
    pub(super) has: Vec<SearchHas>,
}

impl Query {
    /// The query of a request.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it asks for nothing, or names too much.
    pub(crate) fn of(request: &SearchRequest) -> Result<Self> {
        if request.q.len() > QUERY_MAX_BYTES {
            let rule = format!("at most {QUERY_MAX_BYTES} bytes");
            return Err(Error::invalid("q", rule));
        }
        let mut query = Self::default();
        for word in Words(&request.q) {
            match word {
                Word::Plain(word) if query.filter(word) => {}
                Word::Plain(text) | Word::Phrase(text) => query.term(text),
            }
        }
        query.conversations.extend(request.conversation_id);
        query.senders.extend(request.from.clone());
        query.has.extend(request.has);
        for (name, given, is_end) in [
            ("before", &request.before, true),
            ("after", &request.after, false),
        ] {
            let Some(given) = given else { continue };
            let time = time(given).ok_or_else(|| {
                Error::invalid(name, "a day as 2026-01-31, or a time as RFC 3339 has it")
            })?;
            query.limit(time, is_end);
        }
        query.check()
    }

    fn check(self) -> Result<Self> {
        let has_filter = !self.senders.is_empty()
            || !self.has.is_empty()
            || self.before.is_some()
            || self.after.is_some();
        if self.terms.is_empty() && !has_filter {
            let rule =
                "name a word, a \"phrase\", or a filter such as from:, before:, after: or has:";
            return Err(Error::invalid("q", rule));
        }
        if self.terms.len() > TERMS_MAX {
            let rule = format!("at most {TERMS_MAX} words and phrases");
            return Err(Error::invalid("q", rule));
        }
        if self.senders.len() > NAMED_MAX || self.conversations.len() > NAMED_MAX {
            let rule = format!("at most {NAMED_MAX} senders and {NAMED_MAX} conversations");
            return Err(Error::invalid("q", rule));
        }
        Ok(self)
    }

    fn term(&mut self, text: &str) {
        let folded = folded(text);
        let folded = folded.trim();
        if !folded.is_empty() {
            self.pieces.add(folded);
            self.terms.push(Finder::new(folded).into_owned());
        }
    }

    /// Takes `word` as a filter, if it is one.
    fn filter(&mut self, word: &str) -> bool {
        let Some((name, value)) = word.split_once(':') else {
            return false;
        };
        match name.to_ascii_lowercase().as_str() {
            "from" => UserId::new(value).is_ok_and(|user| {
                self.senders.push(user);
                true
            }),
            "in" => value.parse().is_ok_and(|id| {
                self.conversations.insert(id);
                true
            }),
            "has" => SearchHas::parse(value).is_some_and(|has| {
                self.has.push(has);
                true
            }),
            name @ ("before" | "after") => time(value).is_some_and(|time| {
                self.limit(time, name == "before");
                true
            }),
            _ => false,
        }
    }

    /// Of several limits the narrowest counts.
    fn limit(&mut self, time: Timestamp, is_end: bool) {
        if is_end {
            self.before = Some(self.before.map_or(time, |before| before.min(time)));
        } else {
            self.after = Some(self.after.map_or(time, |after| after.max(time)));
        }
    }
}

/// The beginning of a day in UTC, or a point in time.
fn time(text: &str) -> Option<Timestamp> {
    let time = match text.parse::<Date>() {
        Ok(day) if text.len() == "2026-01-31".len() => {
            day.to_zoned(TimeZone::UTC).ok()?.timestamp()
        }
        _ => text.parse::<jiff::Timestamp>().ok()?,
    };
    Some(Timestamp(time.as_millisecond()))
}

/// A part of what a user types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'a> {
    Plain(&'a str),
    Phrase(&'a str),
}

/// The words of a text.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let text = self.0.trim_start();
        let first = text.chars().next()?;
        if is_quote(first) {
            let inner = &text[first.len_utf8()..];
            if let Some((phrase, rest)) = inner.split_once(is_quote)
                && !phrase.trim().is_empty()
            {
                self.0 = rest;
                return Some(Word::Phrase(phrase));
            }
        }
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        Some(Word::Plain(word))
    }
}

/// As keyboards have them, and as telephones make them.
fn is_quote(c: char) -> bool {
    matches!(c, '"' | '“' | '”' | '„')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word<'_>> {
        Words(text).collect()
    }

    fn query(q: &str) -> Query {
        Query::of(&request(q)).unwrap()
    }

    fn request(q: &str) -> SearchRequest {
        SearchRequest {
            q: q.to_owned(),
            ..SearchRequest::default()
        }
    }

    fn terms(query: &Query) -> Vec<String> {
        let terms = query.terms.iter().map(|term| term.needle().to_vec());
        terms.map(|term| String::from_utf8(term).unwrap()).collect()
    }

    #[test]
    fn phrases_are_between_quotation_marks() {
        use Word::{Phrase, Plain};
        for (text, expected) in [
            (
                "  one two\u{3000}three ",
                vec![Plain("one"), Plain("two"), Plain("three")],
            ),
            ("a \"b c\" d", vec![Plain("a"), Phrase("b c"), Plain("d")]),
            ("“b c”d", vec![Phrase("b c"), Plain("d")]),
            ("\"\" \"open", vec![Plain("\"\""), Plain("\"open")]),
            ("5\" disk\"", vec![Plain("5\""), Plain("disk\"")]),
            ("\"from:bob\"", vec![Phrase("from:bob")]),
            ("\"", vec![Plain("\"")]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn filters_are_taken_where_their_values_fit() {
        let id = "00000000000003e900000000000004d2";
        let text = format!(
            "Étude from:bob FROM:carol in:{id} before:2026-02-01 before:2026-01-31T12:00:00Z after:2025-12-31 has:link"
        );
        let query = query(&text);
        assert_eq!(terms(&query), ["etude"]);
        assert_eq!(query.senders.len(), 2);
        assert!(query.conversations.contains(&id.parse().unwrap()));
        let time = |text: &str| {
            let time: jiff::Timestamp = text.parse().unwrap();
            Some(Timestamp(time.as_millisecond()))
        };
        assert_eq!(query.before, time("2026-01-31T12:00:00Z"));
        assert_eq!(query.after, time("2025-12-31T00:00:00Z"));
        assert_eq!(query.has, [SearchHas::Link]);
    }

    #[test]
    fn everything_else_is_literal() {
        for text in [
            "has:cake",
            "from:",
            "in:general",
            "before:lunch",
            "after:2026-13-01",
            "https://example.com",
            "10.0.0.1",
            "c++",
            "-not",
            "or",
            "a*",
            "#tag",
            "(",
            "\"from:bob\"",
        ] {
            let plain = folded(text.trim_matches('"'));
            assert_eq!(terms(&query(text)), [plain], "{text}");
        }
    }

    #[test]
    fn a_query_asks_for_something_and_not_for_too_much() {
        let many = "x ".repeat(TERMS_MAX + 1);
        let long = "x".repeat(QUERY_MAX_BYTES + 1);
        let senders = "from:u ".repeat(NAMED_MAX + 1);
        for q in ["", "  ", "\u{200B}", "\u{301}", &many, &long, &senders] {
            let refused = Query::of(&request(q)).unwrap_err().to_string();
            assert!(refused.starts_with("q: "), "{refused}");
        }
        let in_vain = SearchRequest {
            before: Some("lunch".into()),
            ..request("x")
        };
        let refused = Query::of(&in_vain).unwrap_err().to_string();
        assert!(refused.starts_with("before: "), "{refused}");
        assert!(query("has:image").terms.is_empty());
    }
}
