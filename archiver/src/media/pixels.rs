//! The size of a picture and the number of its frames, read before anything decodes it; and whether its structure is whole.

use super::bytes::Reader;

/// How large a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// In pixels.
    pub(super) width: u32,
    /// In pixels.
    pub(super) height: u32,
    /// One, unless it moves.
    pub(super) frames: u64,
}

impl Shape {
    fn of(width: u64, height: u64, frames: u64) -> Option<Self> {
        let (width, height) = (width.try_into().ok()?, height.try_into().ok()?);
        Some(Self {
            width,
            height,
            frames,
        })
    }

    /// Pixels of one frame.
    pub(super) fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// `None` when the file is damaged or cut off.
pub(super) fn shape(content_type: &str, content: &[u8]) -> Option<Shape> {
    let shape = match content_type {
        "image/png" => png(content),
        "image/gif" => gif(content),
        "image/webp" => webp(content),
        "image/jpeg" => jpeg(content),
        _ => None,
    }?;
    (shape.pixels() > 0).then_some(shape)
}

/// Chunks from IHDR to IEND; the checksums are the decoder's business.
fn png(content: &[u8]) -> Option<Shape> {
    let mut rest = Reader(content.get(8..)?);
    let (mut size, mut frames) = (None, 0);
    loop {
        let length = usize::try_from(rest.be(4)?).ok()?;
        let name = rest.take(4)?;
        let mut data = Reader(rest.take(length)?);
        rest.take(4)?;
        match (name, size) {
            (b"IHDR", None) => size = Some((data.be(4)?, data.be(4)?)),
            (_, None) => return None,
            (b"IEND", Some((width, height))) => return Shape::of(width, height, frames.max(1)),
            (b"fcTL", _) => frames += 1,
            (_, Some(_)) => {}
        }
    }
}

/// Blocks up to the trailer. A frame may be larger than the screen that the header declares, so the largest counts.
fn gif(content: &[u8]) -> Option<Shape> {
    let mut rest = Reader(content.get(6..)?);
    let (mut width, mut height) = (rest.le(2)?, rest.le(2)?);
    let table = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3 << (usize::from(flags & 7) + 1),
    };
    let flags = rest.u8()?;
    rest.take(2)?;
    rest.take(table(flags))?;
    let mut frames = 0;
    loop {
        match rest.u8()? {
            0x21 => drop(rest.u8()?),
            0x2c => {
                let (left, top) = (rest.le(2)?, rest.le(2)?);
                width = width.max(left + rest.le(2)?);
                height = height.max(top + rest.le(2)?);
                let flags = rest.u8()?;
                rest.take(table(flags))?;
                rest.u8()?;
                frames += 1;
            }
            0x3b if frames > 0 => return Shape::of(width, height, frames),
            _ => return None,
        }
        loop {
            match rest.u8()? {
                0 => break,
                length => drop(rest.take(usize::from(length))?),
            }
        }
    }
}

fn webp(content: &[u8]) -> Option<Shape> {
    let mut rest = Reader(content.get(4..)?);
    let declared = rest.le(4)?;
    if declared.checked_add(8)? > content.len() as u64 {
        return None; // cut off
    }
    rest.take(4)?;
    let name = rest.take(4)?;
    let length = usize::try_from(rest.le(4)?).ok()?;
    let mut data = Reader(rest.take(length)?);
    match name {
        b"VP8X" => {
            data.take(4)?;
            let frames = webp_frames(rest).max(1);
            Shape::of(data.le(3)? + 1, data.le(3)? + 1, frames)
        }
        b"VP8L" => {
            let signature = data.u8()?;
            let bits = data.le(4)?;
            let of = |shift: u32| (bits >> shift & 0x3fff) + 1;
            (signature == 0x2f).then(|| Shape::of(of(0), of(14), 1))?
        }
        b"VP8 " => {
            data.take(3)?;
            let start = data.take(3)?;
            let shape = Shape::of(data.le(2)? & 0x3fff, data.le(2)? & 0x3fff, 1)?;
            (start == [0x9d, 0x01, 0x2a]).then_some(shape)
        }
        _ => None,
    }
}

/// How many of the chunks are frames.
fn webp_frames(mut chunks: Reader<'_>) -> u64 {
    let mut frames = 0;
    while let (Some(name), Some(length)) = (chunks.take(4), chunks.le(4)) {
        frames += u64::from(name == b"ANMF");
        chunks.take_up_to(length + length % 2);
    }
    frames
}

/// Segments up to the first scan; then the end mark must come.
fn jpeg(content: &[u8]) -> Option<Shape> {
    let mut rest = Reader(content.get(2..)?);
    let mut size = None;
    loop {
        if rest.u8()? != 0xff {
            return None;
        }
        let mut marker = rest.u8()?;
        while marker == 0xff {
            marker = rest.u8()?;
        }
        let length = usize::try_from(rest.be(2)?).ok()?.checked_sub(2)?;
        let mut data = Reader(rest.take(length)?);
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                data.u8()?;
                let (height, width) = (data.be(2)?, data.be(2)?);
                size = Some(Shape::of(width, height, 1)?);
            }
            0xda => break,
            _ => {}
        }
    }
    let has_end = rest.0.windows(2).any(|pair| pair == [0xff, 0xd9]);
    size.filter(|_| has_end)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Width and height.
    pub(crate) fn size(content_type: &str, content: &[u8]) -> Option<(u32, u32)> {
        shape(content_type, content).map(|shape| (shape.width, shape.height))
    }

    /// A PNG of one grey pixel's structure that says it is of this size.
    pub(crate) fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
        png.extend([8, 0, 0, 0, 0, 1, 2, 3, 4]);
        png.extend(b"\0\0\0\x01IDATx\x01\x02\x03\x04");
        png.extend(b"\0\0\0\0IEND\xae\x42\x60\x82");
        png
    }

    fn gif_of(width: u16, height: u16, frame: u16) -> Vec<u8> {
        let mut gif = b"GIF89a".to_vec();
        gif.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        gif.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
        gif.extend([0x21, 0xf9, 4, 0, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0]);
        gif.extend([frame.to_le_bytes(), frame.to_le_bytes()].concat());
        gif.extend([0, 2, 2, 0x44, 1, 0, 0x3b]);
        gif
    }

    fn jpeg_of(width: u16, height: u16) -> Vec<u8> {
        let mut jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc2\0\x0b\x08".to_vec();
        jpeg.extend([height.to_be_bytes(), width.to_be_bytes()].concat());
        jpeg.extend(b"\x01\x01\x11\0\xff\xda\0\x02data\xff\xd9");
        jpeg
    }

    fn webp_of(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let chunk = [&name[..], &length.to_le_bytes(), data].concat();
        let whole = u32::try_from(chunk.len() + 4).unwrap();
        [b"RIFF", &whole.to_le_bytes()[..], b"WEBP", &chunk].concat()
    }

    pub(crate) fn examples() -> Vec<(&'static str, Vec<u8>, (u32, u32))> {
        let lossy = [&[0, 0, 0, 0x9d, 1, 0x2a][..], &[0x40, 1, 0xf0, 0]].concat();
        let lossless = [&[0x2f][..], &(319u32 | 239 << 14).to_le_bytes()].concat();
        let extended = [0, 0, 0, 0, 0x3f, 1, 0, 0xef, 0, 0];
        vec![
            ("image/png", png_of(320, 240), (320, 240)),
            ("image/gif", gif_of(320, 240, 1), (320, 240)),
            ("image/gif", gif_of(1, 1, 60_000), (60_000, 60_000)),
            ("image/jpeg", jpeg_of(320, 240), (320, 240)),
            ("image/webp", webp_of(b"VP8 ", &lossy), (320, 240)),
            ("image/webp", webp_of(b"VP8L", &lossless), (320, 240)),
            ("image/webp", webp_of(b"VP8X", &extended), (320, 240)),
        ]
    }

    #[test]
    fn sizes_are_read_and_cut_off_files_found_out() {
        for (name, content, expected) in examples() {
            assert_eq!(size(name, &content), Some(expected), "{name}");
            for end in 0..content.len() {
                assert_eq!(size(name, &content[..end]), None, "{name} of {end} bytes");
            }
        }
        assert_eq!(size("image/png", &png_of(0, 5)), None);
    }

    #[test]
    fn frames_are_counted() {
        let frames = |name, content: &[u8]| shape(name, content).map(|it| it.frames);
        let gif = gif_of(4, 4, 4);
        let frame = &gif[27..gif.len() - 1];
        let two = [&gif[..gif.len() - 1], frame, b"\x3b"].concat();
        assert_eq!(frames("image/gif", &two), Some(2));
        let mut webp = webp_of(b"VP8X", &[2, 0, 0, 0, 3, 0, 0, 3, 0, 0]);
        for _ in 0..3 {
            webp.extend(b"ANMF\x01\0\0\0x\0");
        }
        assert_eq!(frames("image/webp", &webp), Some(3));
        let png = png_of(4, 4);
        let at = png.len() - 12;
        let chunks = b"\0\0\0\0fcTL\0\0\0\0".repeat(5);
        let png = [&png[..at], &chunks, &png[at..]].concat();
        assert_eq!(frames("image/png", &png), Some(5));
        assert_eq!(frames("image/jpeg", &jpeg_of(4, 4)), Some(1));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(place in 0..7usize, changes in proptest::collection::vec((0..200usize, any::<u8>()), 0..6)) {
            let (name, mut content, _) = examples().swap_remove(place);
            for (at, byte) in changes {
                let length = content.len();
                content[at % length] = byte;
            }
            let _ = size(name, &content);
        }
    }
}
