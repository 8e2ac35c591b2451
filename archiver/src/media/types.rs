//! What a file is, by its content; and what may be shown in a browser.

use backscroll_shard::model::MediaKind;

/// Pictures: their types.
pub const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// Recordings: their types.
pub const RECORDINGS: [&str; 5] = [
    "audio/ogg",
    "audio/webm",
    "audio/mp4",
    "audio/mpeg",
    "audio/wav",
];
/// What a file is called whose content does not say what it is.
pub const UNKNOWN: &str = "application/octet-stream";

/// How many bytes at the beginning [`by_content`] looks at.
pub const HEAD_BYTES: usize = 4096;

/// The type of a file that begins with `head`; `None` for what is not known here. HTML and SVG are not: nothing is ever
/// answered with such a type.
#[must_use]
pub fn by_content(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, mark: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(mark))
    };
    let webm = || head.windows(4).take(64).any(|four| four == b"webm");
    let is_known = [
        (at(0, b"\xff\xd8\xff"), "image/jpeg"),
        (at(0, b"\x89PNG\r\n\x1a\n"), "image/png"),
        (at(0, b"GIF87a") || at(0, b"GIF89a"), "image/gif"),
        (at(0, b"RIFF") && at(8, b"WEBP"), "image/webp"),
        (at(0, b"RIFF") && at(8, b"WAVE"), "audio/wav"),
        (at(0, b"OggS") && at(28, b"OpusHead"), "audio/ogg"),
        (at(0, b"\x1a\x45\xdf\xa3") && webm(), "audio/webm"),
        (at(4, b"ftyp"), "audio/mp4"),
        (at(0, b"ID3") || is_mpeg_frame(head), "audio/mpeg"),
        (at(0, b"%PDF-"), "application/pdf"),
        (at(0, b"PK\x03\x04"), "application/zip"),
    ];
    is_known
        .into_iter()
        .find(|(is, _)| *is)
        .map(|(_, name)| name)
}

fn is_mpeg_frame(head: &[u8]) -> bool {
    matches!(head, [0xff, second, ..] if second & 0xe6 == 0xe2)
}

/// Whether a file may be declared to be of this type.
#[must_use]
pub fn may_be_declared(kind: MediaKind, declared: &str) -> bool {
    match kind {
        MediaKind::Image => IMAGES.contains(&declared),
        MediaKind::Voice => RECORDINGS.contains(&declared),
        MediaKind::File => is_type(declared),
    }
}

/// What a file is used as where its uploader does not say.
#[must_use]
pub fn kind_of(declared: &str) -> MediaKind {
    match IMAGES.contains(&declared) {
        true => MediaKind::Image,
        false => MediaKind::File,
    }
}

/// The type of a file by its content, if that may be under its declared one.
#[must_use]
pub fn settle(kind: MediaKind, declared: &str, head: &[u8]) -> Option<&'static str> {
    let found = by_content(head);
    match kind {
        MediaKind::Image | MediaKind::Voice => found.filter(|found| *found == declared),
        MediaKind::File => {
            let known = IMAGES.iter().chain(&RECORDINGS);
            let mut known = known.chain(&["application/pdf", "application/zip"]);
            if known.any(|known| *known == declared) && found != Some(declared) {
                return None;
            }
            Some(found.unwrap_or(UNKNOWN))
        }
    }
}

/// The name of a picture's form of another type than its own.
#[must_use]
pub fn renamed(file_name: &str, content_type: &str) -> String {
    let stem = match file_name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file_name,
    };
    let ending = content_type.strip_prefix("image/").unwrap_or(content_type);
    format!("{stem}.{}", ending.replace("jpeg", "jpg"))
}

/// The `Content-Disposition` of a file: pictures and recordings are shown, everything else is downloaded.
#[must_use]
pub fn disposition(kind: MediaKind, content_type: &str, file_name: &str) -> String {
    let is_shown = match kind {
        MediaKind::Image => IMAGES.contains(&content_type),
        MediaKind::Voice => RECORDINGS.contains(&content_type),
        MediaKind::File => false,
    };
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || " ._-".contains(c) => c,
        _ => '_',
    };
    let plain: String = file_name.chars().map(plain).collect();
    let full: String = file_name
        .bytes()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() || b"._-".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect();
    let how = if is_shown { "inline" } else { "attachment" };
    format!("{how}; filename=\"{plain}\"; filename*=UTF-8''{full}")
}

/// `type/subtype`, in lower case and without parameters.
fn is_type(text: &str) -> bool {
    let token = |part: &str| {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$&-^_.+".contains(&b);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let parts = text.split_once('/');
    text.len() <= 127 && parts.is_some_and(|(kind, sub)| token(kind) && token(sub))
}

/// Whether `name` may be a file's: for people and for `Content-Disposition`, never a path.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let forbidden = |c: char| c.is_control() || turns(c) || matches!(c, '/' | '\\');
    let characters = name.chars().count();
    (1..=255).contains(&characters)
        && !name.chars().any(forbidden)
        && !matches!(name.trim(), "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_content_says() {
        let html = b"<!DOCTYPE html><script>alert(1)</script>";
        let svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>";
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        for kind in [MediaKind::Image, MediaKind::Voice] {
            for declared in IMAGES.iter().chain(&RECORDINGS) {
                assert_eq!(settle(kind, declared, html), None);
                assert_eq!(settle(kind, declared, svg), None);
            }
        }
        assert_eq!(
            settle(MediaKind::Image, "image/png", png),
            Some("image/png")
        );
        assert_eq!(settle(MediaKind::Image, "image/jpeg", png), None);
        assert_eq!(settle(MediaKind::File, "application/pdf", png), None);
        for (declared, content, stored) in [
            ("text/html", &html[..], UNKNOWN),
            ("image/svg+xml", &svg[..], UNKNOWN),
            ("text/plain", &png[..], "image/png"),
            ("application/pdf", &b"%PDF-1.7"[..], "application/pdf"),
        ] {
            assert_eq!(settle(MediaKind::File, declared, content), Some(stored));
            let how = disposition(MediaKind::File, stored, "x");
            assert!(how.starts_with("attachment;"), "{how}");
        }
    }

    #[test]
    fn forms_are_named_by_their_type() {
        assert_eq!(renamed("a.b.png", "image/jpeg"), "a.b.jpg");
        assert_eq!(renamed("photo", "image/webp"), "photo.webp");
        assert_eq!(renamed(".gif", "image/jpeg"), ".gif.jpg");
    }

    #[test]
    fn declared_types() {
        assert!(may_be_declared(MediaKind::File, "application/vnd.ms-excel"));
        for bad in [
            "",
            "image",
            "image/",
            "Image/PNG",
            "a/b\r\nx: y",
            "a/b; c=d",
        ] {
            assert!(!may_be_declared(MediaKind::File, bad), "{bad}");
        }
        for bad in ["image/svg+xml", "text/html", "image/heic", "audio/ogg"] {
            assert!(!may_be_declared(MediaKind::Image, bad), "{bad}");
        }
        assert!(!may_be_declared(MediaKind::Voice, "image/png"));
    }

    #[test]
    fn names_are_no_paths_and_break_no_header() {
        for good in ["a.png", "Urlaub – 日本.jpg", "...", "a b"] {
            assert!(is_file_name(good), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            " ",
            ".",
            "..",
            "a/b",
            "..\\b",
            "a\r\nb",
            "a\0",
            "a\u{202e}gpj.exe",
            &long,
        ] {
            assert!(!is_file_name(bad), "{bad}");
        }
        assert_eq!(
            disposition(MediaKind::Image, "image/png", "é\";x.png"),
            "inline; filename=\"___x.png\"; filename*=UTF-8''%C3%A9%22%3Bx.png"
        );
    }
}
