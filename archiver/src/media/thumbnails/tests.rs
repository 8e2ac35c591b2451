//! Pictures made by real encoders, each turned in all eight ways.

use image::codecs::gif::GifEncoder;
use image::{Frame, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

fn task(content_type: &str) -> Task {
    Task {
        content_type: content_type.into(),
        pixels: 50_000_000,
        memory: 512 << 20,
    }
}

/// Red above on the left, green beside it, blue below; and a texture, so that it does not become tiny.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let grain = u8::try_from((x * 7 + y * 13) % 23).unwrap();
        match (x < width / 2, y < height / 2) {
            (true, true) => Rgb([220, grain, grain]),
            (false, true) => Rgb([grain, 220, grain]),
            (_, false) => Rgb([grain, grain, 220]),
        }
    })
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// A JPEG that says how to turn it.
fn turned(picture: &RgbImage, orientation: u8) -> Vec<u8> {
    let plain = encoded(&picture.clone().into(), ImageFormat::Jpeg);
    let mut tiff = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0";
    tiff[19] = orientation;
    [&plain[..2], b"\xff\xe1\0\x22Exif\0\0", &tiff, &plain[2..]].concat()
}

#[test]
fn a_picture_is_turned_as_its_camera_says() {
    let picture = picture(400, 300);
    // Where the upper left corner goes, and the upper right one: by the definition of the eight values.
    for (orientation, red, green) in [
        (1, (0, 0), (1, 0)),
        (2, (1, 0), (0, 0)),
        (3, (1, 1), (0, 1)),
        (4, (0, 1), (1, 1)),
        (5, (0, 0), (0, 1)),
        (6, (1, 0), (1, 1)),
        (7, (1, 1), (1, 0)),
        (8, (0, 1), (0, 0)),
    ] {
        let made = make(&task("image/jpeg"), &turned(&picture, orientation)).unwrap();
        let [(small, content)] = &made.variants[..] else {
            panic!("{:?}", made.variants.len());
        };
        let expected = if orientation > 4 {
            (240, 320)
        } else {
            (320, 240)
        };
        assert_eq!((small.width, small.height), expected, "{orientation}");
        assert_eq!(
            (small.variant, &*small.content_type),
            (VariantName::Small, "image/jpeg")
        );
        assert_eq!(small.bytes, content.len() as u64);
        let shown = image::load_from_memory(content).unwrap().to_rgb8();
        let corner = |(x, y): (u32, u32)| {
            let at = |place: u32, length: u32| {
                if place == 0 {
                    length / 8
                } else {
                    length * 7 / 8
                }
            };
            let Rgb(pixel) = *shown.get_pixel(at(x, shown.width()), at(y, shown.height()));
            pixel.iter().position(|part| *part > 150)
        };
        assert_eq!(corner(red), Some(0), "{orientation}");
        assert_eq!(corner(green), Some(1), "{orientation}");
        let hash = STANDARD.decode(&made.placeholder).unwrap();
        let ratio = thumbhash::thumb_hash_to_approximate_aspect_ratio(&hash).unwrap();
        assert_eq!(ratio > 1.0, orientation <= 4, "{orientation}: {ratio}");
    }
}

#[test]
fn forms_are_made_of_what_is_larger() {
    let large = picture(1400, 700);
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        let content = encoded(&large.clone().into(), format);
        let made = make(&task(format.to_mime_type()), &content).unwrap();
        let sizes: Vec<_> = made
            .variants
            .iter()
            .map(|(it, _)| (it.variant, it.width, it.height))
            .collect();
        let all = [
            (VariantName::Small, 320, 160),
            (VariantName::Large, 1280, 640),
        ];
        assert_eq!(sizes, all, "{format:?}");
        for (variant, content) in &made.variants {
            assert_eq!(variant.content_type, "image/jpeg");
            assert_eq!(image::guess_format(content).unwrap(), ImageFormat::Jpeg);
        }
    }
    let small = make(
        &task("image/png"),
        &encoded(&picture(320, 200).into(), ImageFormat::Png),
    );
    let small = small.unwrap();
    assert_eq!(small.variants, []);
    assert!(
        (8..64).contains(&small.placeholder.len()),
        "{}",
        small.placeholder
    );
    // One colour: nothing is smaller than its PNG.
    let flat = RgbImage::from_pixel(330, 330, Rgb([9, 9, 9]));
    let flat = make(&task("image/png"), &encoded(&flat.into(), ImageFormat::Png)).unwrap();
    assert_eq!(flat.variants, []);
}

#[test]
fn what_can_be_seen_through_stays_so() {
    let mut picture = RgbaImage::from_fn(400, 400, |x, y| {
        let grain = u8::try_from((x * x + y * 31) % 251).unwrap();
        Rgba([grain, 255 - grain, grain / 2, 255])
    });
    let opaque = encoded(&picture.clone().into(), ImageFormat::Png);
    let made = make(&task("image/png"), &opaque).unwrap();
    assert_eq!(made.variants[0].0.content_type, "image/jpeg");
    picture.enumerate_pixels_mut().for_each(|(x, _, pixel)| {
        if x < 200 {
            pixel.0[3] = 0;
        }
    });
    let made = make(
        &task("image/png"),
        &encoded(&picture.into(), ImageFormat::Png),
    )
    .unwrap();
    let (small, content) = &made.variants[0];
    assert_eq!(small.content_type, "image/webp");
    let shown = image::load_from_memory(content).unwrap().to_rgba8();
    assert_eq!(
        (shown.get_pixel(20, 20).0[3], shown.get_pixel(300, 20).0[3]),
        (0, 255)
    );
}

#[test]
fn of_a_moving_picture_the_first_frame_counts() {
    let mut content = Vec::new();
    let mut encoder = GifEncoder::new(&mut content);
    for colour in [[200, 0, 0, 255], [0, 200, 0, 255], [0, 0, 200, 255]] {
        let grain = |x: u32, y: u32| {
            Rgba([
                colour[0],
                colour[1],
                colour[2] + u8::try_from((x * 3 + y * 5) % 40).unwrap(),
                255,
            ])
        };
        encoder
            .encode_frame(Frame::new(RgbaImage::from_fn(360, 360, grain)))
            .unwrap();
    }
    drop(encoder);
    let made = make(&task("image/gif"), &content).unwrap();
    let shown = image::load_from_memory(&made.variants[0].1)
        .unwrap()
        .to_rgb8();
    assert!(shown.get_pixel(160, 160).0[0] > 150);
}

#[test]
fn each_fault_of_a_picture_has_its_name() {
    let png = encoded(&picture(400, 300).into(), ImageFormat::Png);
    let jpeg = encoded(&picture(400, 300).into(), ImageFormat::Jpeg);
    let webp = encoded(&picture(400, 300).into(), ImageFormat::WebP);
    let failure = |task: Task, content: &[u8]| make(&task, content).unwrap_err();
    for (name, content) in [
        ("image/png", &png),
        ("image/jpeg", &jpeg),
        ("image/webp", &webp),
    ] {
        // Cut off: as the gate would find, too.
        assert_eq!(
            failure(task(name), &content[..content.len() / 2]),
            Failure::Damaged,
            "{name}"
        );
        // Whole by its structure, but not what it says: only who decodes it finds that.
        let less = Task {
            memory: 100_000,
            ..task(name)
        };
        assert_eq!(failure(less, content), Failure::OutOfMemory, "{name}");
        let fewer = Task {
            pixels: 119_999,
            ..task(name)
        };
        assert_eq!(failure(fewer, content), Failure::OutOfMemory, "{name}");
    }
    let mut broken = png.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0x55);
    assert_eq!(failure(task("image/png"), &broken), Failure::Damaged);
    assert_eq!(failure(task("image/jpeg"), &png), Failure::Damaged);
    assert_eq!(failure(task("image/tiff"), &png), Failure::Damaged);
}
