//! Texts as they are compared: without case, accents and width.
//!
//! A text is folded cluster by cluster: a character with the marks that follow it. A cluster is decomposed by compatibility (NFKD:
//! full-width letters, ligatures, presentation forms), loses its accents, and its letters become small ones. Voiced kana and Hangul
//! syllables are composed again, so that `か` is no part of `が`. White space of any length is one space, and invisible characters
//! are nothing. What stays are signs that make another letter or syllable: kana voicing, and the vowel and tone signs of Thai, Lao and
//! Indic scripts.
//!
//! Texts and queries are folded by the same function. Archives keep terms of folded texts: a rule here may be changed together with
//! [`super::terms::VERSION`].

use std::ops::Range;
use std::sync::LazyLock;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_normalizer::properties::{
    CanonicalCombiningClassMapBorrowed, CanonicalCompositionBorrowed,
};

use crate::text::is_invisible;

const DECOMPOSED: DecomposingNormalizerBorrowed<'static> =
    DecomposingNormalizerBorrowed::new_nfkd();
const COMPOSED: CanonicalCompositionBorrowed<'static> = CanonicalCompositionBorrowed::new();
const CLASSES: CanonicalCombiningClassMapBorrowed<'static> =
    CanonicalCombiningClassMapBorrowed::new();

/// How many characters are folded once and for all, where they stand without marks: those of most alphabets.
const ALPHABETS: u32 = 0x2000;
static ALPHABET: LazyLock<Vec<Box<str>>> = LazyLock::new(|| {
    let letter = |code: u32| {
        let mut folded = String::new();
        if let Some(c) = char::from_u32(code) {
            fold_marked(c.encode_utf8(&mut [0; 4]), &mut folded);
        }
        folded.into_boxed_str()
    };
    (0..ALPHABETS).map(letter).collect()
});

/// Stretches Arabic words, and is no letter.
const TATWEEL: char = '\u{640}';

/// Folds `text`.
pub(crate) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    fold(text, &mut folded, |_, _| {});
    folded
}

/// Writes `text` into `folded`, in place of what was there. `note` receives, for each cluster of which something is left, where
/// that begins in `folded`, and the bytes of the cluster in `text`.
pub(crate) fn fold(text: &str, folded: &mut String, mut note: impl FnMut(usize, Range<usize>)) {
    folded.clear();
    let mut start = 0;
    while let Some(&byte) = text.as_bytes().get(start) {
        let begin = folded.len();
        let next = text.as_bytes().get(start + 1);
        let is_alone = byte.is_ascii_graphic() && next.is_none_or(u8::is_ascii)
            || byte == b' ' && next.is_some_and(u8::is_ascii_graphic);
        let end = if is_alone {
            folded.push(char::from(byte.to_ascii_lowercase()));
            start + 1
        } else {
            let end = cluster_end(text, start);
            fold_cluster(&text[start..end], folded);
            end
        };
        if folded.len() > begin {
            note(begin, start..end);
        }
        start = end;
    }
}

/// Where the cluster that begins at `start` ends.
fn cluster_end(text: &str, start: usize) -> usize {
    let mut characters = text[start..].char_indices();
    let is_space = characters.next().is_some_and(|(_, c)| c.is_whitespace());
    let next = characters.find(|(_, c)| match is_space {
        true => !(c.is_whitespace() || is_left_out(*c)),
        false => !continues(*c),
    });
    next.map_or(text.len(), |(place, _)| start + place)
}

/// Whether a character belongs to the cluster of the one before it.
fn continues(c: char) -> bool {
    if c.is_ascii_graphic() || c.is_whitespace() {
        return false;
    }
    is_composed(c) || is_left_out(c) || CLASSES.get_u8(c) > 0 || is_voicing(c)
}

/// The half-width marks of kana, which decompose to those of full width.
fn is_voicing(c: char) -> bool {
    matches!(c, '\u{FF9E}' | '\u{FF9F}')
}

/// Whether a character is composed with the one before it: the marks of kana; vowels and finals of Hangul.
fn is_composed(c: char) -> bool {
    matches!(c, '\u{3099}' | '\u{309A}' | '\u{1160}'..='\u{11FF}' | '\u{D7B0}'..='\u{D7FF}')
}

/// A character of which nothing is left.
fn is_left_out(c: char) -> bool {
    c == TATWEEL || is_invisible(c)
}

/// An accent: a point of Hebrew, a vowel point of Arabic, or a mark of any other script that is above, below or beside a letter
/// and leaves it the same letter. By the ranges of canonical combining classes.
fn is_accent(c: char) -> bool {
    matches!(CLASSES.get_u8(c), 10..=36 | 200..=240)
}

fn fold_cluster(cluster: &str, folded: &mut String) {
    let mut characters = cluster.chars();
    if let (Some(c), None) = (characters.next(), characters.next()) {
        if is_itself(c) {
            folded.push(c);
            return;
        }
        if let Some(letter) = ALPHABET.get(c as usize) {
            folded.push_str(letter);
            return;
        }
    }
    fold_marked(cluster, folded);
}

/// The same for any cluster, whatever it consists of.
fn fold_marked(cluster: &str, folded: &mut String) {
    if cluster.starts_with(char::is_whitespace) {
        folded.push(' ');
        return;
    }
    let begin = folded.len();
    let visible = cluster.chars().filter(|c| !is_left_out(*c));
    let letters = DECOMPOSED.normalize_iter(visible);
    for c in letters.filter(|c| !is_accent(*c)) {
        let before = folded[begin..].chars().next_back();
        let composed = before
            .filter(|_| is_composed(c))
            .and_then(|before| COMPOSED.compose(before, c));
        if let Some(composed) = composed {
            folded.pop();
            folded.push(composed);
            continue;
        }
        for c in c.to_lowercase() {
            match same_letter(c) {
                Some(letter) => folded.push_str(letter),
                None => folded.push(c),
            }
        }
    }
}

/// Letters that are folded to themselves, of scripts in which every character of a text is one of them.
fn is_itself(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
}

/// The plain form of small letters that do not decompose.
fn same_letter(c: char) -> Option<&'static str> {
    Some(match c {
        'ß' => "ss",
        'ς' => "σ",
        'ı' => "i",
        'ø' => "o",
        'ł' => "l",
        'đ' => "d",
        'ħ' => "h",
        'ŧ' => "t",
        'æ' => "ae",
        'œ' => "oe",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use icu_normalizer::ComposingNormalizerBorrowed;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_accents_and_width_do_not_count() {
        for (text, form) in [
            ("Hello World", "hello world"),
            ("Crème BRÛLÉE", "creme brulee"),
            ("Cre\u{300}me", "creme"),
            ("Straße STRASSE ẞ", "strasse strasse ss"),
            ("İstanbul ISPARTA ısı", "istanbul isparta isi"),
            ("Łódź Ærø đường", "lodz aero duong"),
            ("ΣΊΣΥΦΟΣ σίσυφος", "σισυφοσ σισυφοσ"),
            ("Ёлка", "елка"),
            ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
            ("ｶﾞｷﾞ ｱ", "ガギ ア"),
            ("か\u{3099}き が", "がき が"),
            ("\u{1112}\u{1161}\u{11AB}글", "한글"),
            ("مُحَمَّد مـــحمد", "محمد محمد"),
            ("أحمد آدم", "احمد ادم"),
            ("שָׁלוֹם", "שלום"),
            ("ﬁn ﷲ", "fin الله"),
            ("ใกล้ ไกล", "ใกล้ ไกล"),
            ("क़ानून", "क\u{93C}ानून"),
            ("東京　タワー", "東京 タワー"),
            ("a \n\t b\u{A0}c", "a b c"),
            ("soft\u{AD}hyphen zero\u{200B}width", "softhyphen zerowidth"),
            ("می\u{200C}خواهم", "میخواهم"),
            ("👩\u{200D}❤\u{FE0F}\u{200D}👨 👍🏽", "👩❤👨 👍🏽"),
            ("ℌ𝓮𝔩𝕝𝟘", "hell0"),
        ] {
            assert_eq!(folded(text), form, "{text}");
        }
    }

    #[test]
    fn clusters_cover_what_they_came_from() {
        let text = "\u{200B}Ça ﬁn が\u{301} \u{2003}x";
        let mut form = String::new();
        let mut clusters = Vec::new();
        fold(text, &mut form, |begin, bytes| {
            clusters.push((begin, bytes))
        });
        let parts: Vec<&str> = clusters.iter().map(|(_, it)| &text[it.clone()]).collect();
        assert_eq!(form, "ca fin が x");
        assert_eq!(
            parts,
            ["Ç", "a", " ", "ﬁ", "n", " ", "が\u{301}", " \u{2003}", "x"]
        );
    }

    proptest! {
        #[test]
        fn equivalent_texts_are_folded_alike(text in any_text()) {
            let form = folded(&text);
            let composed = ComposingNormalizerBorrowed::new_nfc().normalize(&text);
            let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(&text);
            prop_assert_eq!(&folded(&composed), &form);
            prop_assert_eq!(&folded(&decomposed), &form);
        }

        #[test]
        fn clusters_are_in_order_and_do_not_overlap(text in any_text()) {
            let mut form = String::new();
            let mut last = (0, 0);
            fold(&text, &mut form, |begin, bytes| {
                assert!(begin >= last.0 && bytes.start >= last.1 && bytes.end > bytes.start);
                assert!(text.is_char_boundary(bytes.start) && text.is_char_boundary(bytes.end));
                last = (begin + 1, bytes.end);
            });
            prop_assert!(last.1 <= text.len());
        }

        #[test]
        fn ascii_is_lower_case_with_single_spaces(text in "[ -~\n]{0,40}") {
            let mut expected = String::new();
            for c in text.to_ascii_lowercase().chars() {
                match c {
                    ' ' | '\n' if expected.ends_with(' ') => {}
                    ' ' | '\n' => expected.push(' '),
                    c => expected.push(c),
                }
            }
            prop_assert_eq!(folded(&text), expected);
        }
    }

    /// Texts of many scripts, with marks in any place.
    fn any_text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            4 => any::<char>(),
            2 => prop::char::range('\u{20}', '\u{17F}'),
            2 => prop::char::range('\u{300}', '\u{36F}'),
            1 => prop::char::range('\u{590}', '\u{6FF}'),
            1 => prop::char::range('\u{900}', '\u{EFF}'),
            1 => prop::char::range('\u{1100}', '\u{11FF}'),
            2 => prop::char::range('\u{3040}', '\u{30FF}'),
            1 => prop::char::range('\u{AC00}', '\u{D7A3}'),
            1 => prop::char::range('\u{FF00}', '\u{FFEF}'),
        ];
        prop::collection::vec(character, 0..24).prop_map(String::from_iter)
    }
}
