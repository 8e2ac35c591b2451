//! Terms: the parts of texts that an index has, and what a query demands of them.
//!
//! A folded text is cut into runs of letters and digits, each of which is one term, and runs of characters of scripts that
//! are written without spaces, and of symbols: of these every pair of neighbours is a term. Everything else is between terms. A query is cut
//! likewise, and whatever it finds in a text is inside of the text's terms: a message can have the query only if each [`Pieces`] piece is part of
//! one of the message's terms. The opposite need not hold: an index may cost a look, it never decides.
//!
//! Terms are stored in the archive, so what is cut, and what [`super::fold`] makes of a text, is of a version: [`VERSION`].

use super::fold::{fold, folded};

/// The version of the terms. Another folding, or another way of cutting, is another version.
pub const VERSION: u32 = 1;

/// Most characters of a term. Longer words are cut into terms of as many characters, each of which begins in the middle of the
/// one before it, so that every [`PIECE_MAX`] characters of the word are within one of them.
const TERM_MAX: usize = 64;
/// Most characters of a piece; what a query has beyond is left to the look at the message.
const PIECE_MAX: usize = TERM_MAX / 2;

/// What the terms of a message have to contain for a query to find it: all of these, each within one term. Empty when no
/// terms tell, and every message has to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(Vec<String>);

impl Pieces {
    /// Those of one word or phrase.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut pieces = Self::default();
        pieces.add(folded(text).trim());
        pieces
    }

    /// Whether terms tell nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Adds those of a folded word or phrase.
    pub(super) fn add(&mut self, folded: &str) {
        cut(folded, |sort, run| match sort {
            Sort::Word => self.push(first(run, PIECE_MAX)),
            Sort::Dense => pairs(run, |pair| self.push(pair)),
        });
    }

    fn push(&mut self, piece: &str) {
        if !self.iter().any(|known| known == piece) {
            self.0.push(piece.to_owned());
        }
    }
}

/// Gives `take` the terms of a text, some of them more than once. `folded` is room for the folded text, which callers keep from
/// message to message.
pub fn each_term(text: &str, folded: &mut String, mut take: impl FnMut(&str)) {
    fold(text, folded, |_, _| {});
    cut(folded, |sort, run| match sort {
        Sort::Word => words(run, &mut take),
        Sort::Dense => pairs(run, &mut take),
    });
}

/// How a run of characters is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// It is one term.
    Word,
    /// Its pairs are.
    Dense,
}

fn sort_of(c: char) -> Option<Sort> {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric().then_some(Sort::Word);
    }
    if is_dense(c) {
        return Some(Sort::Dense);
    }
    c.is_alphanumeric().then_some(Sort::Word)
}

/// Whether a character is of a script that has no spaces between words, or a symbol.
fn is_dense(c: char) -> bool {
    matches!(
        c,
        '\u{0E00}'..='\u{0EFF}' // Thai, Lao
        | '\u{1000}'..='\u{109F}' // Myanmar
        | '\u{1780}'..='\u{17FF}' // Khmer
        | '\u{2190}'..='\u{2BFF}' // symbols
        | '\u{2E80}'..='\u{2FFF}' // radicals
        | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{312F}' // kana, bopomofo
        | '\u{31A0}'..='\u{9FFF}' // ideographs
        | '\u{F900}'..='\u{FAFF}'
        | '\u{1F000}'..='\u{1FAFF}' // pictures
        | '\u{20000}'..='\u{3FFFF}' // ideographs
    )
}

/// Gives the longest runs of characters of one sort.
fn cut(folded: &str, mut take: impl FnMut(Sort, &str)) {
    let mut open: Option<(Sort, usize)> = None;
    for (place, c) in folded.char_indices() {
        let sort = sort_of(c);
        if open.map(|(sort, _)| sort) != sort {
            if let Some((sort, start)) = open {
                take(sort, &folded[start..place]);
            }
            open = sort.map(|sort| (sort, place));
        }
    }
    if let Some((sort, start)) = open {
        take(sort, &folded[start..]);
    }
}

/// The first `most` characters.
fn first(text: &str, most: usize) -> &str {
    let end = text.char_indices().nth(most);
    end.map_or(text, |(end, _)| &text[..end])
}

/// Gives a word, a long one in parts.
fn words(mut word: &str, take: &mut impl FnMut(&str)) {
    loop {
        let term = first(word, TERM_MAX);
        take(term);
        if term.len() == word.len() {
            return;
        }
        word = &word[first(word, PIECE_MAX).len()..];
    }
}

/// Gives every pair of neighbours; a single character where there is no other.
fn pairs(run: &str, mut take: impl FnMut(&str)) {
    let starts = || run.char_indices().map(|(start, _)| start);
    let ends = starts().skip(2).chain([run.len()]);
    starts()
        .zip(ends)
        .for_each(|(start, end)| take(&run[start..end]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twox_hash::XxHash3_64;

    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        each_term(text, &mut String::new(), |term| terms.push(term.to_owned()));
        terms
    }

    fn may_have(text: &str, q: &str) -> bool {
        let terms = terms(text);
        Pieces::of(q)
            .iter()
            .all(|piece| terms.iter().any(|term| term.contains(piece)))
    }

    #[test]
    fn texts_are_cut_into_terms() {
        for (text, expected) in [
            (
                "Hello, Wörld! 10.0.0.1",
                vec!["hello", "world", "10", "0", "0", "1"],
            ),
            ("東京タワー", vec!["東京", "京タ", "タワ", "ワー"]),
            ("abc京def", vec!["abc", "京", "def"]),
            ("ไทย a", vec!["ไท", "ทย", "a"]),
            ("👍🏽 !!", vec!["👍🏽"]),
            ("한국어 글", vec!["한국어", "글"]),
            ("++ -- …", vec![]),
        ] {
            assert_eq!(terms(text), expected, "{text}");
        }
        let long = "ab".repeat(60);
        let lengths: Vec<usize> = terms(&long).iter().map(String::len).collect();
        assert_eq!(lengths, [64, 64, 56]);
        let piece = Pieces::of(&long).iter().next().unwrap().len();
        assert_eq!(piece, PIECE_MAX);
    }

    #[test]
    fn where_terms_do_not_tell_there_are_no_pieces() {
        assert!(Pieces::of("++").is_empty() && Pieces::of("…!").is_empty());
        assert!(!may_have("Hello World", "mars"));
        assert!(!may_have("東京タワー", "京都"));
        assert!(may_have("東京タワー", "京"));
        assert!(may_have("Hello World", "o wor"));
    }

    /// Terms are stored: where this changes, because the tables of Unicode or the code did, [`VERSION`] has to.
    #[test]
    fn folding_and_cutting_are_those_of_the_version() {
        let mut all = String::new();
        for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
            each_term(&format!("x{c}y"), &mut String::new(), |term| {
                all.push_str(term);
                all.push('\n');
            });
        }
        let digest = XxHash3_64::oneshot(all.as_bytes());
        assert_eq!((VERSION, digest), (1, 8_172_395_392_818_010_120));
    }

    fn any_text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            3 => prop::sample::select(vec!['a', 'B', 'é', 'ß', ' ', '.', '1', '東', '京', 'が', 'ไ', 'ท', 'ั', '👍', '🏽', '한', 'م', '\u{301}', '\u{200D}']),
            1 => any::<char>(),
        ];
        prop::collection::vec(character, 0..90).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_text_is_in_its_terms(text in any_text(), from in 0..90_usize, length in 1..60_usize) {
            let folded = folded(&text);
            let part: String = folded.chars().skip(from).take(length).collect();
            let mut pieces = Pieces::default();
            pieces.add(part.trim());
            let terms = terms(&text);
            for piece in pieces.iter() {
                prop_assert!(terms.iter().any(|term| term.contains(piece)), "{:?} of {:?}", piece, part);
            }
        }

        #[test]
        fn long_words_too(word in "[ab]{60,300}", from in 0..300_usize, length in 1..=PIECE_MAX + 9) {
            let part: String = word.chars().skip(from).take(length).collect();
            prop_assert!(may_have(&word, &part));
        }
    }
}
