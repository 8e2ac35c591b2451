//! What a reader sees of a text: whether it shows anything, and which emoji a reaction is.
//!
//! The tables are those of Unicode 14 (`emoji-data.txt`, `DerivedCoreProperties.txt`). A character of a later version is
//! taken as one that is visible and is shown as an emoji by itself, as nearly all of them are.

use icu_normalizer::ComposingNormalizerBorrowed;

/// Longest emoji of a reaction in bytes: the longest sequences of Unicode's list (families, flags with tags) have up to 35.
const EMOJI_MAX_BYTES: usize = 64;

const TEXT_PRESENTATION: char = '\u{FE0E}';
const EMOJI_PRESENTATION: char = '\u{FE0F}';
const ZERO_WIDTH_JOINER: char = '\u{200D}';
const KEYCAP: char = '\u{20E3}';
const BLACK_FLAG: char = '\u{1F3F4}';

/// Whether a reader sees anything of `text`: not when all of it is white space and invisible characters.
#[must_use]
pub(crate) fn is_visible(text: &str) -> bool {
    text.chars().any(|c| !is_invisible(c))
}

/// The emoji of a reaction, in the one form under which it is counted; none when it is not 1 to 64 bytes of visible
/// characters without spaces.
///
/// Emoji that look alike are written alike: in Unicode's composed form (NFC), and with the presentation selector U+FE0F
/// exactly where Unicode's list of emoji has it. Skin tones, joined sequences, flags and short names stay as they are.
#[must_use]
pub fn emoji(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > EMOJI_MAX_BYTES || matches!(text, "." | "..") {
        return None;
    }
    let is_selector = |c: &char| matches!(*c, TEXT_PRESENTATION | EMOJI_PRESENTATION);
    let composed = ComposingNormalizerBorrowed::new_nfc().normalize(text);
    let characters: Vec<char> = composed.chars().filter(|c| !is_selector(c)).collect();
    let mut form = String::with_capacity(text.len() + 8);
    for (place, &c) in characters.iter().enumerate() {
        let (before, next) = (place.checked_sub(1), characters.get(place + 1).copied());
        let before = before.and_then(|place| characters.get(place)).copied();
        let stands_between =
            before.is_some_and(|c| !is_invisible(c)) && next.is_some_and(|c| !is_invisible(c));
        let is_fit = match c {
            ZERO_WIDTH_JOINER => stands_between,
            '\u{E0020}'..='\u{E007F}' => characters.first() == Some(&BLACK_FLAG),
            _ => !(is_invisible(c) || place == 0 && is_mark(c)),
        };
        if !is_fit {
            return None;
        }
        form.push(c);
        if takes_selector(c, next) {
            form.push(EMOJI_PRESENTATION);
        }
    }
    (!form.is_empty() && form.len() <= EMOJI_MAX_BYTES).then_some(form)
}

/// Whether Unicode's list of emoji has U+FE0F after this character.
fn takes_selector(c: char, next: Option<char>) -> bool {
    match c {
        '0'..='9' | '#' | '*' => next == Some(KEYCAP),
        _ => is_text_by_itself(c) && !matches!(next, Some('\u{1F3FB}'..='\u{1F3FF}')),
    }
}

/// A mark that is shown over the character before it, and so over nothing.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}' | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}' | '\u{20D0}'..='\u{20FF}' | '\u{FE20}'..='\u{FE2F}')
}

/// White space, control characters, `Default_Ignorable_Code_Point`, and the empty pattern of Braille.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}' | '\u{2800}')
}

/// `Emoji` without `Emoji_Presentation`: shown as an emoji only with U+FE0F or a skin tone after it.
fn is_text_by_itself(c: char) -> bool {
    matches!(c, '\u{A9}' | '\u{AE}' | '\u{203C}' | '\u{2049}' | '\u{2122}' | '\u{2139}' | '\u{2194}'..='\u{2199}' | '\u{21A9}'..='\u{21AA}' | '\u{2328}' | '\u{23CF}' | '\u{23ED}'..='\u{23EF}' | '\u{23F1}'..='\u{23F2}' | '\u{23F8}'..='\u{23FA}' | '\u{24C2}' | '\u{25AA}'..='\u{25AB}' | '\u{25B6}' | '\u{25C0}' | '\u{25FB}'..='\u{25FC}' | '\u{2600}'..='\u{2604}' | '\u{260E}' | '\u{2611}' | '\u{2618}' | '\u{261D}' | '\u{2620}' | '\u{2622}'..='\u{2623}' | '\u{2626}' | '\u{262A}' | '\u{262E}'..='\u{262F}' | '\u{2638}'..='\u{263A}' | '\u{2640}' | '\u{2642}' | '\u{265F}'..='\u{2660}' | '\u{2663}' | '\u{2665}'..='\u{2666}' | '\u{2668}' | '\u{267B}' | '\u{267E}' | '\u{2692}' | '\u{2694}'..='\u{2697}' | '\u{2699}' | '\u{269B}'..='\u{269C}' | '\u{26A0}' | '\u{26A7}' | '\u{26B0}'..='\u{26B1}' | '\u{26C8}' | '\u{26CF}' | '\u{26D1}' | '\u{26D3}' | '\u{26E9}' | '\u{26F0}'..='\u{26F1}' | '\u{26F4}' | '\u{26F7}'..='\u{26F9}' | '\u{2702}' | '\u{2708}'..='\u{2709}' | '\u{270C}'..='\u{270D}' | '\u{270F}' | '\u{2712}' | '\u{2714}' | '\u{2716}' | '\u{271D}' | '\u{2721}' | '\u{2733}'..='\u{2734}' | '\u{2744}' | '\u{2747}' | '\u{2763}'..='\u{2764}' | '\u{27A1}' | '\u{2934}'..='\u{2935}' | '\u{2B05}'..='\u{2B07}' | '\u{3030}' | '\u{303D}' | '\u{3297}' | '\u{3299}' | '\u{1F170}'..='\u{1F171}' | '\u{1F17E}'..='\u{1F17F}' | '\u{1F202}' | '\u{1F237}' | '\u{1F321}' | '\u{1F324}'..='\u{1F32C}' | '\u{1F336}' | '\u{1F37D}' | '\u{1F396}'..='\u{1F397}' | '\u{1F399}'..='\u{1F39B}' | '\u{1F39E}'..='\u{1F39F}' | '\u{1F3CB}'..='\u{1F3CE}' | '\u{1F3D4}'..='\u{1F3DF}' | '\u{1F3F3}' | '\u{1F3F5}' | '\u{1F3F7}' | '\u{1F43F}' | '\u{1F441}' | '\u{1F4FD}' | '\u{1F549}'..='\u{1F54A}' | '\u{1F56F}'..='\u{1F570}' | '\u{1F573}'..='\u{1F579}' | '\u{1F587}' | '\u{1F58A}'..='\u{1F58D}' | '\u{1F590}' | '\u{1F5A5}' | '\u{1F5A8}' | '\u{1F5B1}'..='\u{1F5B2}' | '\u{1F5BC}' | '\u{1F5C2}'..='\u{1F5C4}' | '\u{1F5D1}'..='\u{1F5D3}' | '\u{1F5DC}'..='\u{1F5DE}' | '\u{1F5E1}' | '\u{1F5E3}' | '\u{1F5E8}' | '\u{1F5EF}' | '\u{1F5F3}' | '\u{1F5FA}' | '\u{1F6CB}' | '\u{1F6CD}'..='\u{1F6CF}' | '\u{1F6E0}'..='\u{1F6E5}' | '\u{1F6E9}' | '\u{1F6F0}' | '\u{1F6F3}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_that_look_alike_are_written_alike() {
        let alike = [
            ("❤", "❤\u{FE0F}"),
            ("❤\u{FE0E}", "❤\u{FE0F}"),
            ("👍\u{FE0F}", "👍"),
            ("1\u{20E3}", "1\u{FE0F}\u{20E3}"),
            ("👁\u{200D}🗨", "👁\u{FE0F}\u{200D}🗨\u{FE0F}"),
            ("🏳\u{200D}🌈", "🏳\u{FE0F}\u{200D}🌈"),
            ("☝\u{FE0F}🏽", "☝🏽"),
            ("cafe\u{301}", "caf\u{e9}"),
        ];
        for (given, form) in alike {
            assert_eq!(emoji(given).as_deref(), Some(form), "{given:?}");
        }
    }

    #[test]
    fn what_is_one_emoji_stays_itself() {
        for it in [
            "👍",
            "👍🏿",
            "👩\u{200D}❤\u{FE0F}\u{200D}💋\u{200D}👨",
            "🧑\u{200D}⚕\u{FE0F}",
            "🇩🇪",
            "🏴\u{E0067}\u{E0062}\u{E0065}\u{E006E}\u{E0067}\u{E007F}",
            ":tada:",
            "+1",
            "thumbs_up",
            "1",
            "#",
            "né",
            "\u{1FAE8}",
            "...",
            "日本",
        ] {
            assert_eq!(emoji(it).as_deref(), Some(it), "{it:?}");
        }
    }

    #[test]
    fn what_shows_nothing_or_something_else_is_no_emoji() {
        for it in [
            "",
            ".",
            "..",
            " ",
            "a b",
            "\u{200B}",
            "\u{200D}",
            "\u{FE0F}",
            "\u{2060}",
            "\u{3164}",
            "\u{2800}",
            "\u{301}",
            "👍\u{200B}",
            "👍\u{200D}",
            "\u{200D}👍",
            "\u{202E}x",
            "x\u{E0061}",
            "a\u{7}",
            "\u{FE0F}\u{FE0F}",
        ] {
            assert_eq!(emoji(it), None, "{it:?}");
        }
        assert_eq!(emoji(&"x".repeat(65)), None);
    }

    #[test]
    fn white_space_and_invisible_characters_are_no_text() {
        for nothing in [
            "",
            " ",
            "\n\t ",
            "\u{200B}\u{2060}",
            "\u{3164}",
            "\u{2800} \u{FE0F}",
        ] {
            assert!(!is_visible(nothing), "{nothing:?}");
        }
        assert!(is_visible(" . ") && is_visible("\u{200B}x"));
    }
}
