//! Pages of history: which messages the page at a position has to show.

use serde::Deserialize;

use crate::faults::observed::Observed;

/// The position of a page.
#[derive(Clone, Copy, Debug)]
pub enum Position {
    /// The newest messages.
    Latest,
    /// The messages before a seq.
    Before(u64),
    /// The messages after it.
    After(u64),
    /// The messages on both sides of it.
    Around(u64),
}

/// A page of history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The messages.
    pub messages: Vec<Observed>,
    /// The conversation's greatest seq.
    pub head_seq: u64,
    /// The conversation's rev.
    pub rev: u64,
    /// Whether there are messages before the first one.
    pub has_more_before: bool,
    /// Whether there are messages after the last one.
    pub has_more_after: bool,
    /// The tiers that the messages came from.
    pub tiers: Tiers,
    /// The part that could not be read.
    pub archive_unavailable: Option<Range>,
}

/// The number of a page's messages from each tier.
#[derive(Debug, Deserialize)]
pub struct Tiers {
    /// From the database.
    pub hot: u64,
    /// From the archive.
    pub archive: u64,
}

/// A range of seqs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The first.
    pub from_seq: u64,
    /// The last.
    pub to_seq: u64,
}

impl Position {
    /// The query of a request.
    #[must_use]
    pub fn query(self, limit: u64) -> String {
        match self {
            Self::Latest => format!("limit={limit}"),
            Self::Before(seq) => format!("before={seq}&limit={limit}"),
            Self::After(seq) => format!("after={seq}&limit={limit}"),
            Self::Around(seq) => format!("around={seq}&limit={limit}"),
        }
    }

    /// The first and the last seq of the page; the last is smaller than the first if the page is empty.
    #[must_use]
    pub fn bounds(self, limit: u64, head: u64) -> (u64, u64) {
        let (first, last) = match self {
            Self::Latest => ((head + 1).saturating_sub(limit), head),
            Self::Before(seq) => {
                let end = seq.min(head + 1);
                (end.saturating_sub(limit), end.saturating_sub(1))
            }
            Self::After(seq) => (seq + 1, seq + limit),
            Self::Around(seq) => {
                let center = seq.min(head);
                let last = (center + (limit - 1).div_ceil(2))
                    .min(head)
                    .max(limit.min(head));
                ((last + 1).saturating_sub(limit), last)
            }
        };
        (first.max(1), last.min(head))
    }

    /// The message that stays however short its page with these bounds is cut.
    fn anchor(self, (first, last): (u64, u64)) -> u64 {
        match self {
            Self::Latest | Self::Before(_) => last,
            Self::After(_) => first,
            Self::Around(seq) => seq.clamp(first, last),
        }
    }
}

impl Page {
    /// The bounds of the page if it may be shorter than asked for. The texts of a run are far smaller than an answer may
    /// be, so only archived messages can make it shorter: their frames have to be read whole, and are bounded in bytes. The
    /// messages that are left out are nobody's loss: the page says that there are more, and the checks at the end read all.
    #[must_use]
    pub fn cut(&self, position: Position, whole: (u64, u64)) -> Option<(u64, u64)> {
        let (mut first, mut last) = (self.messages.first()?.seq, self.messages.last()?.seq);
        if let Some(unread) = &self.archive_unavailable {
            (first, last) = (first.min(unread.from_seq), last.max(unread.to_seq));
        }
        let is_within = whole.0 <= first && last <= whole.1;
        let has_anchor = (first..=last).contains(&position.anchor(whole));
        (self.tiers.archive > 0 && is_within && has_anchor).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(seqs: std::ops::RangeInclusive<u64>, archive: u64) -> Page {
        let message = |seq| {
            json!({
                "conversationId": "c", "seq": seq, "rev": seq, "senderId": "ana", "content": "x", "messageType": "text",
                "clientMsgId": null, "replyTo": null, "attachments": [], "reactions": {}, "metadata": {},
                "createdAt": "2026-01-01T00:00:00.000Z", "editedAt": null, "deletedAt": null, "editHistory": null,
            })
        };
        let page = json!({
            "messages": seqs.map(message).collect::<Vec<_>>(), "headSeq": 100, "rev": 100, "hasMoreBefore": true,
            "hasMoreAfter": true, "tiers": {"hot": 0, "archive": archive},
        });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn only_a_page_of_archived_messages_is_cut() {
        let cut = |seqs, archive, position| page(seqs, archive).cut(position, (41, 90));
        assert_eq!(cut(80..=90, 2, Position::Before(91)), Some((80, 90)));
        assert_eq!(cut(80..=90, 0, Position::Before(91)), None, "it is hot");
        assert_eq!(
            cut(70..=80, 2, Position::Before(91)),
            None,
            "without the message before 91"
        );
        assert_eq!(cut(41..=50, 2, Position::After(40)), Some((41, 50)));
        assert_eq!(cut(60..=70, 2, Position::Around(65)), Some((60, 70)));
        assert_eq!(cut(85..=95, 2, Position::Around(90)), None, "it is outside");
    }

    #[test]
    fn a_page_whose_archived_part_is_not_read_is_as_long_as_it_says() {
        let mut page = page(80..=90, 2);
        page.archive_unavailable = Some(Range {
            from_seq: 41,
            to_seq: 79,
        });
        assert_eq!(page.cut(Position::Before(91), (41, 90)), Some((41, 90)));
    }

    #[test]
    fn pages_are_arithmetic() {
        assert_eq!(Position::Latest.bounds(20, 5), (1, 5));
        assert_eq!(Position::Before(501).bounds(50, 1000), (451, 500));
        assert_eq!(Position::Before(9999).bounds(2, 10), (9, 10));
        assert_eq!(Position::After(8).bounds(20, 10), (9, 10));
        assert_eq!(Position::After(10).bounds(20, 10), (11, 10));
        assert_eq!(Position::Around(50).bounds(5, 100), (48, 52));
        assert_eq!(Position::Around(100).bounds(4, 100), (97, 100));
    }
}
