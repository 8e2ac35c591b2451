//! Makes the smaller forms of a picture, and its placeholder. Runs in a process that may be ended at any time ([`super::worker`]).
//!
//! The decoders are written in Rust and have limits; a picture is turned as its EXIF says, and keeps its colour profile. Of a
//! moving picture the first frame counts.

use std::io::Cursor;

use backscroll_shard::model::{MediaVariant, VariantName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::error::ImageError;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder as _, ImageEncoder as _, ImageFormat};
use serde::{Deserialize, Serialize};

use super::strip;

/// The longest side of each form.
const EDGES: [(VariantName, u32); 2] = [(VariantName::Large, 1280), (VariantName::Small, 320)];
/// The longest side of what a ThumbHash is made of.
const HASHED_EDGE: u32 = 100;
/// JPEG's quality, of 100.
const QUALITY: u8 = 82;
/// Larger colour profiles are left out.
const PROFILE_BYTES: usize = 16 << 10;

/// What is to be made, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) content_type: String,
    /// Most pixels.
    pub(super) pixels: u64,
    /// Most bytes that are allocated for a decoded picture.
    pub(super) memory: u64,
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// A ThumbHash in Base64.
    pub(super) placeholder: String,
    /// The smallest first.
    pub(super) variants: Vec<(MediaVariant, Vec<u8>)>,
}

/// Why a picture has no smaller forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    /// It is not what its header says.
    Damaged,
    /// It is of a form of its type that is not decoded here.
    Unsupported,
    /// It took too much memory.
    OutOfMemory,
    /// It took too long.
    TimedOut,
    /// It ended the process that decoded it.
    Crashed,
}

impl Failure {
    /// The name that clients see.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Unsupported => "unsupported",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::OutOfMemory,
            ImageError::Unsupported(_) => Self::Unsupported,
            _ => Self::Damaged,
        }
    }
}

/// Makes the forms of a picture that are smaller than it, in pixels and in bytes.
pub(super) fn make(task: &Task, content: &[u8]) -> Result<Made, Failure> {
    let turned = strip::strip(&task.content_type, content).ok_or(Failure::Damaged)?;
    let orientation = Orientation::from_exif(turned.orientation);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let (mut picture, profile) = decode(task, content)?;
    let mut made = Made::default();
    let mut is_whole = true;
    for (variant, edge) in EDGES {
        if picture.width().max(picture.height()) <= edge {
            continue;
        }
        picture = shrunk(&picture, edge);
        if std::mem::take(&mut is_whole) {
            picture.apply_orientation(orientation);
        }
        let (content_type, bytes) = encode(&picture, profile.as_deref())?;
        if bytes.len() < content.len() {
            let described = MediaVariant {
                variant,
                content_type: content_type.to_owned(),
                width: picture.width(),
                height: picture.height(),
                bytes: bytes.len() as u64,
            };
            made.variants.insert(0, (described, bytes));
        }
    }
    if is_whole {
        picture.apply_orientation(orientation);
    }
    made.placeholder = placeholder(&picture);
    Ok(made)
}

/// The picture, and its colour profile if it is one for what is made of it.
fn decode(task: &Task, content: &[u8]) -> Result<(DynamicImage, Option<Vec<u8>>), Failure> {
    let format = ImageFormat::from_mime_type(&task.content_type).ok_or(Failure::Unsupported)?;
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(task.memory);
    let mut reader = image::ImageReader::with_format(Cursor::new(content), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > task.pixels {
        return Err(Failure::OutOfMemory);
    }
    // `from_decoder` does not look at the limits by itself.
    limits.reserve(decoder.total_bytes())?;
    let profile = decoder.icc_profile().ok().flatten();
    let is_usable = |it: &Vec<u8>| it.len() <= PROFILE_BYTES && it.get(16..20) == Some(b"RGB ");
    let picture = DynamicImage::from_decoder(decoder)?;
    Ok((picture, profile.filter(is_usable)))
}

/// Its longest side becomes `edge`: first by whole pixels, which is quick, then well.
fn shrunk(picture: &DynamicImage, edge: u32) -> DynamicImage {
    let rough = 2 * edge;
    match picture.width().max(picture.height()) > 2 * rough {
        true => picture
            .thumbnail(rough, rough)
            .resize(edge, edge, FilterType::CatmullRom),
        false => picture.resize(edge, edge, FilterType::CatmullRom),
    }
}

/// JPEG, or WebP without loss of a picture that can be seen through: every browser shows both.
fn encode(
    picture: &DynamicImage,
    profile: Option<&[u8]>,
) -> Result<(&'static str, Vec<u8>), Failure> {
    let (width, height) = (picture.width(), picture.height());
    let mut out = Vec::new();
    let profile = profile.map(<[u8]>::to_vec);
    if can_be_seen_through(picture) {
        let mut encoder = WebPEncoder::new_lossless(&mut out);
        if let Some(profile) = profile {
            encoder.set_icc_profile(profile).ok(); // it knows them
        }
        let pixels = picture.to_rgba8();
        encoder.write_image(&pixels, width, height, ExtendedColorType::Rgba8)?;
        return Ok(("image/webp", out));
    }
    let mut encoder = JpegEncoder::new_with_quality(&mut out, QUALITY);
    if let Some(profile) = profile {
        encoder.set_icc_profile(profile).ok(); // it knows them
    }
    let pixels = picture.to_rgb8();
    encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8)?;
    Ok(("image/jpeg", out))
}

fn can_be_seen_through(picture: &DynamicImage) -> bool {
    picture.color().has_alpha() && picture.to_rgba8().pixels().any(|pixel| pixel.0[3] < 255)
}

fn placeholder(picture: &DynamicImage) -> String {
    let is_small = picture.width().max(picture.height()) <= HASHED_EDGE;
    let pixels = match is_small {
        true => picture.to_rgba8(),
        false => picture.thumbnail(HASHED_EDGE, HASHED_EDGE).to_rgba8(),
    };
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    STANDARD.encode(thumbhash::rgba_to_thumb_hash(width, height, &pixels))
}

#[cfg(test)]
mod tests;
