//! Takes out of a picture what is not the picture: where and when it was taken and with what (EXIF, XMP, IPTC), comments and
//! texts. Nothing is decoded, and the pixels stay byte by byte.
//!
//! How a picture is to be turned stays, in a small EXIF directory of its own. So do colour profiles.

use super::bytes::Reader;

/// How a picture is to be turned before it is shown (EXIF's tag 274): 1 as it is, 5 to 8 with its sides exchanged.
pub(super) type Orientation = u8;

/// A picture without its metadata.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stripped {
    /// The file.
    pub(super) content: Vec<u8>,
    /// How it is to be turned.
    pub(super) orientation: Orientation,
}

/// `None` when the file's structure is damaged.
pub(super) fn strip(content_type: &str, content: &[u8]) -> Option<Stripped> {
    let mut orientation = 1;
    let content = match content_type {
        "image/jpeg" => jpeg(content, &mut orientation)?,
        "image/png" => png(content, &mut orientation)?,
        "image/webp" => webp(content, &mut orientation)?,
        "image/gif" => gif(content)?,
        _ => return None,
    };
    Some(Stripped {
        content,
        orientation,
    })
}

/// Keeps what a decoder needs: all but APP1 (EXIF, XMP), the other application segments except JFIF, colour profiles and
/// Adobe's, and comments. What follows the last end mark, as a film or a second picture, goes too.
fn jpeg(content: &[u8], orientation: &mut Orientation) -> Option<Vec<u8>> {
    let mut rest = Reader(content);
    let mut kept = rest.take(2)?.to_vec();
    let mut segments = Vec::new();
    loop {
        if rest.u8()? != 0xff {
            return None;
        }
        let mut marker = rest.u8()?;
        while marker == 0xff {
            marker = rest.u8()?;
        }
        if marker == 0xd9 {
            segments.extend([0xff, 0xd9]);
            break;
        }
        let whole = rest.0;
        let length = usize::try_from(rest.be(2)?).ok()?;
        let data = rest.take(length.checked_sub(2)?)?;
        if let Some(exif) = data.strip_prefix(b"Exif\0\0").filter(|_| marker == 0xe1) {
            *orientation = exif_orientation(exif).unwrap_or(1);
        }
        let is_kept = match marker {
            0xe0 | 0xee => true,
            0xe2 => data.starts_with(b"ICC_PROFILE\0"),
            0xe1..=0xef | 0xfe => false,
            _ => true,
        };
        if is_kept {
            segments.extend([0xff, marker]);
            segments.extend_from_slice(whole.get(..length)?);
        }
        if marker == 0xda {
            segments.extend_from_slice(scan(&mut rest)?);
        }
    }
    if *orientation != 1 {
        kept.extend(turned(*orientation));
    }
    kept.extend(segments);
    Some(kept)
}

/// The bytes of a scan, up to the marker that ends it.
fn scan<'a>(rest: &mut Reader<'a>) -> Option<&'a [u8]> {
    let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff | 0xd0..=0xd7);
    let end = rest.0.windows(2).position(ends)?;
    rest.take(end)
}

/// An EXIF segment of a JPEG that says nothing but how to turn it.
fn turned(orientation: Orientation) -> Vec<u8> {
    [b"\xff\xe1\0\x22Exif\0\0", &directory(orientation)[..]].concat()
}

/// An EXIF directory that says nothing but how to turn a picture.
fn directory(orientation: Orientation) -> [u8; 26] {
    let mut tiff = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0";
    tiff[19] = orientation;
    tiff
}

/// The orientation in a TIFF structure: in its first directory.
fn exif_orientation(tiff: &[u8]) -> Option<Orientation> {
    let is_little = match tiff.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let number = |reader: &mut Reader<'_>, bytes: usize| match is_little {
        true => reader.le(bytes),
        false => reader.be(bytes),
    };
    let mut header = Reader(tiff.get(4..)?);
    let first = usize::try_from(number(&mut header, 4)?).ok()?;
    let mut directory = Reader(tiff.get(first..)?);
    for _ in 0..number(&mut directory, 2)? {
        let mut entry = Reader(directory.take(12)?);
        let tag = number(&mut entry, 2)?;
        entry.take(6)?;
        if tag == 274 {
            let value = u8::try_from(number(&mut entry, 2)?).ok()?;
            return (1..=8).contains(&value).then_some(value);
        }
    }
    None
}

/// Leaves out the chunks with texts, times and EXIF, and what follows the end.
fn png(content: &[u8], orientation: &mut Orientation) -> Option<Vec<u8>> {
    let mut rest = Reader(content);
    let mut kept = rest.take(8)?.to_vec();
    loop {
        let whole = rest.0;
        let length = usize::try_from(rest.be(4)?).ok()?;
        let name = rest.take(4)?;
        let data = rest.take(length)?;
        rest.take(4)?;
        match name {
            b"tEXt" | b"zTXt" | b"iTXt" | b"tIME" => {}
            b"eXIf" => {
                *orientation = exif_orientation(data).unwrap_or(1);
                if *orientation != 1 {
                    let chunk = [b"eXIf", &directory(*orientation)[..]].concat();
                    kept.extend(26u32.to_be_bytes());
                    kept.extend_from_slice(&chunk);
                    kept.extend(crc32(&chunk).to_be_bytes());
                }
            }
            _ => kept.extend_from_slice(whole.get(..length + 12)?),
        }
        if name == b"IEND" {
            return Some(kept);
        }
    }
}

/// As PNG has it; of a few bytes only.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let all = bytes.iter();
    !all.fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Where the header of an extended WebP says that there is EXIF, and XMP.
const WEBP_EXIF: u8 = 0b1000;
const WEBP_XMP: u8 = 0b0100;

/// Leaves out the chunks with EXIF and XMP, and says so in the header.
fn webp(content: &[u8], orientation: &mut Orientation) -> Option<Vec<u8>> {
    let mut file = Reader(content);
    file.take(4)?;
    let declared = usize::try_from(file.le(4)?).ok()?;
    let mut rest = Reader(file.take(declared)?);
    let mut chunks = rest.take(4)?.to_vec();
    let mut flags = None;
    while !rest.is_empty() {
        let whole = rest.0;
        let name = rest.take(4)?;
        let length = usize::try_from(rest.le(4)?).ok()?;
        let data = rest.take(length)?;
        rest.take_up_to((length % 2) as u64);
        match name {
            b"XMP " => {}
            b"EXIF" => {
                let tiff = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
                *orientation = exif_orientation(tiff).unwrap_or(1);
                if *orientation != 1 {
                    chunks.extend(b"EXIF\x1a\0\0\0");
                    chunks.extend(directory(*orientation));
                }
            }
            _ => {
                if name == b"VP8X" {
                    flags = Some(chunks.len() + 8);
                }
                chunks.extend_from_slice(&whole[..whole.len() - rest.0.len()]);
            }
        }
    }
    if let Some(flags) = flags.and_then(|at| chunks.get_mut(at)) {
        let gone = match orientation {
            1 => WEBP_EXIF | WEBP_XMP,
            _ => WEBP_XMP,
        };
        *flags &= !gone;
    }
    let length = u32::try_from(chunks.len()).ok()?;
    Some([b"RIFF", &length.to_le_bytes()[..], &chunks].concat())
}

/// Leaves out comments and what programs add, except how often an animation repeats; and what follows the end.
fn gif(content: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Reader(content);
    let mut kept = rest.take(13)?.to_vec();
    let table = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3 << (usize::from(flags & 7) + 1),
    };
    kept.extend_from_slice(rest.take(table(*content.get(10)?))?);
    loop {
        let whole = rest.0;
        let is_kept = match rest.u8()? {
            0x3b => {
                kept.push(0x3b);
                return Some(kept);
            }
            0x21 => match rest.u8()? {
                0xfe => false,
                0xff => {
                    let name = rest.0.get(1..12)?;
                    matches!(name, b"NETSCAPE2.0" | b"ANIMEXTS1.0")
                }
                _ => true,
            },
            0x2c => {
                let flags = *rest.take(9)?.last()?;
                rest.take(table(flags) + 1)?;
                true
            }
            _ => return None,
        };
        while let length @ 1.. = rest.u8()? {
            rest.take(usize::from(length))?;
        }
        if is_kept {
            kept.extend_from_slice(&whole[..whole.len() - rest.0.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pixels::tests::{examples, size};
    use super::*;

    const SECRET: &[u8] = b"48.8584 N 2.2945 E";

    fn contains(content: &[u8], what: &[u8]) -> bool {
        content.windows(what.len()).any(|window| window == what)
    }

    /// A JPEG with EXIF, written with its last bytes first or not.
    fn jpeg_with(orientation: u16, is_little: bool) -> Vec<u8> {
        let short = |value: u16| match is_little {
            true => value.to_le_bytes(),
            false => value.to_be_bytes(),
        };
        let long = |value: u32| match is_little {
            true => value.to_le_bytes(),
            false => value.to_be_bytes(),
        };
        let mut exif = b"Exif\0\0".to_vec();
        exif.extend(if is_little { b"II\x2a\0" } else { b"MM\0\x2a" });
        exif.extend(long(8));
        exif.extend(short(2));
        exif.extend([short(0x010f), short(2)].concat());
        exif.extend([long(4), long(0)].concat());
        exif.extend([short(274), short(3)].concat());
        exif.extend(long(1));
        exif.extend([short(orientation), short(0)].concat());
        exif.extend(SECRET);
        let segment = |marker: u8, data: &[u8]| {
            let length = u16::try_from(data.len() + 2).unwrap();
            [&[0xff, marker][..], &length.to_be_bytes(), data].concat()
        };
        [
            b"\xff\xd8".to_vec(),
            segment(0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
            segment(0xe1, &exif),
            segment(0xe1, &[b"http://ns.adobe.com/xap/1.0/\0", SECRET].concat()),
            segment(0xe2, b"ICC_PROFILE\0\x01\x01profile"),
            segment(0xed, SECRET),
            segment(0xfe, SECRET),
            segment(0xc0, b"\x08\0\xf0\x01\x40\x01\x01\x11\0"),
            segment(0xda, b"\x01\x01\0\0\x3f\0"),
            b"pixels\xff\0more\xff\xd0again\xff\xd9".to_vec(),
            SECRET.to_vec(),
        ]
        .concat()
    }

    #[test]
    fn places_go_and_the_picture_stays() {
        for (orientation, is_little) in (1..=8).flat_map(|it| [(it, true), (it, false)]) {
            let content = jpeg_with(orientation, is_little);
            assert!(contains(&content, SECRET));
            let stripped = strip("image/jpeg", &content).unwrap();
            assert_eq!(u16::from(stripped.orientation), orientation);
            assert!(!contains(&stripped.content, SECRET));
            for kept in [
                &b"JFIF"[..],
                b"ICC_PROFILE",
                b"pixels\xff\0more\xff\xd0again\xff\xd9",
            ] {
                assert!(contains(&stripped.content, kept));
            }
            assert_eq!(size("image/jpeg", &stripped.content), Some((320, 240)));
            // Once more changes nothing, and says the same.
            assert_eq!(strip("image/jpeg", &stripped.content), Some(stripped));
        }
    }

    #[test]
    fn texts_of_other_formats_go() {
        for (name, content, expected) in examples() {
            let mut with = content.clone();
            match name {
                "image/png" => {
                    let at = with.len() - 12;
                    let length = u32::try_from(SECRET.len()).unwrap().to_be_bytes();
                    let chunk = [&length[..], b"tEXt", SECRET, b"\0\0\0\0"].concat();
                    with.splice(at..at, chunk);
                }
                "image/gif" => {
                    let at = with.len() - 1;
                    let length = u8::try_from(SECRET.len()).unwrap();
                    with.splice(at..at, [b"\x21\xfe", &[length][..], SECRET, b"\0"].concat());
                }
                // A chunk begins at an even place.
                "image/webp" if with.len() % 2 == 0 => {
                    let length = u32::try_from(SECRET.len()).unwrap().to_le_bytes();
                    with.extend([b"EXIF", &length[..], SECRET].concat());
                    let whole = u32::try_from(with.len() - 8).unwrap().to_le_bytes();
                    with[4..8].copy_from_slice(&whole);
                }
                _ => continue,
            }
            let stripped = strip(name, &with).unwrap();
            assert!(!contains(&stripped.content, SECRET), "{name}");
            assert_eq!(stripped.content, content, "{name}");
            assert_eq!(size(name, &stripped.content), Some(expected));
        }
    }

    #[test]
    fn how_a_picture_is_turned_stays() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        let tiff = directory(6);
        let png = &examples()[0].1;
        let at = png.len() - 12;
        let chunk = [b"\0\0\0\x1aeXIf", &tiff[..], b"\0\0\0\0"].concat();
        let png = [&png[..at], &chunk, &png[at..]].concat();
        let mut webp = examples()[6].1.clone();
        webp[20] |= WEBP_EXIF | WEBP_XMP;
        webp.extend([b"EXIF\x1a\0\0\0", &tiff[..]].concat());
        let whole = u32::try_from(webp.len() - 8).unwrap().to_le_bytes();
        webp[4..8].copy_from_slice(&whole);
        for (name, content) in [("image/png", png), ("image/webp", webp)] {
            let stripped = strip(name, &content).unwrap();
            assert_eq!(stripped.orientation, 6, "{name}");
            assert!(contains(&stripped.content, &tiff));
            assert_eq!(strip(name, &stripped.content), Some(stripped));
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(place in 0..9usize, changes in proptest::collection::vec((0..400usize, any::<u8>()), 0..6)) {
            let mut all: Vec<(&str, Vec<u8>)> = examples().into_iter().map(|(name, content, _)| (name, content)).collect();
            all.push(("image/jpeg", jpeg_with(6, true)));
            all.push(("image/jpeg", jpeg_with(3, false)));
            let (name, mut content) = all.swap_remove(place);
            for (at, byte) in changes {
                let length = content.len();
                content[at % length] = byte;
            }
            let _ = strip(name, &content);
        }
    }
}
