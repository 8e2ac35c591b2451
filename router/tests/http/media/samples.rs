//! Files as clients upload them.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

/// A photograph as an encoder makes it.
pub(super) fn photo(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let grain = u8::try_from((x * x + y * 31) % 61).unwrap();
        Rgb([x.to_le_bytes()[0], y.to_le_bytes()[0], grain])
    };
    let mut content = Cursor::new(Vec::new());
    let picture = RgbImage::from_fn(width, height, pixel);
    picture.write_to(&mut content, format).unwrap();
    content.into_inner()
}

/// A PNG's structure, of this size by its header; no decoder takes it.
pub(super) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    png.extend([8, 0, 0, 0, 0, 1, 2, 3, 4]);
    png.extend(b"\0\0\0\x01IDATx\x01\x02\x03\x04\0\0\0\0IEND\xae\x42\x60\x82");
    png
}

/// So many seconds of nothing.
pub(super) fn wav(seconds: u32) -> Vec<u8> {
    let mut wav =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x01\0\0\0\x02\0\x10\0data"
            .to_vec();
    wav.extend((16_000 * seconds).to_le_bytes());
    wav.resize(wav.len() + 16_000 * seconds as usize, 0);
    wav
}

/// The header of a PNG of 3000 by 3000 pixels with eight bytes each, and nothing that could be decoded.
pub(super) fn wide_png() -> Vec<u8> {
    let mut png = png(3000, 3000);
    png[24..26].copy_from_slice(&[16, 6]);
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let all = png[12..29].iter();
    let crc = !all.fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}
