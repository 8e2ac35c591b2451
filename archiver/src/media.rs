//! Files of conversations on the object store: uploaded by clients, checked here, read by clients.
//!
//! ```text
//! upload/<xx>/<32 hexadecimal digits>   what the client puts; it can be replaced as long as its address is valid
//! media/<xx>/<32 hexadecimal digits>    the copy that was checked; no address to write it was ever signed
//! ```
//!
//! - Keys are random and name no shard, so that a range moves without its objects.
//! - [`gate::Gate::check`] copies first and looks at the copy: what arrives under the client's address meanwhile changes
//!   nothing that was checked. Of a picture with metadata an object without them takes the place of the copy. Of several
//!   checks at once each has a copy of its own, and the row takes one.
//! - Smaller forms of pictures are made afterwards ([`processing`]) by processes of this program that do nothing else ([`worker`]):
//!   what a picture does to a decoder ends one of these. Their keys are in the row before anything is put there, so that they are
//!   deleted with it, whatever was put (INV-ERASE).
//! - INV-BOUND: so many checks at once ([`settings::MediaSettings`]), each of which holds at most one picture or recording;
//!   other files are read in pieces.
//!
//! A crash leaves an upload whose row expires, or a copy that no row names, which [`collect`](crate::jobs) finds by listing.

mod bytes;
pub mod cdn;
pub mod complete;
mod duration;
pub mod gate;
mod pixels;
pub mod processing;
pub mod rebuild;
pub mod scan;
pub mod settings;
mod strip;
mod thumbnails;
pub mod types;
pub mod upload;
pub mod worker;

use backscroll_shard::model::VariantKeys;

use crate::object_store::ObjectKey;

/// What the keys of checked files begin with.
pub const KEY_PREFIX: &str = "media/";
/// What the keys of uploads begin with.
pub const UPLOAD_PREFIX: &str = "upload/";

/// A key that nothing has.
fn new_key(prefix: &str) -> ObjectKey {
    let name = format!("{:032x}", rand::random::<u128>());
    #[expect(clippy::expect_used, reason = "digits and a slash are a key")]
    ObjectKey::new(format!("{prefix}{}/{name}", &name[..2])).expect("valid")
}

/// Keys for the smaller forms of a picture.
fn new_variant_keys() -> VariantKeys {
    VariantKeys {
        small: new_key(KEY_PREFIX).to_string(),
        large: new_key(KEY_PREFIX).to_string(),
    }
}

/// Whether a key is one that was made here; others below our prefixes are not ours to delete.
pub(crate) fn is_own_key(key: &ObjectKey) -> bool {
    let key = key.as_str();
    let rest = [KEY_PREFIX, UPLOAD_PREFIX]
        .iter()
        .find_map(|prefix| key.strip_prefix(prefix));
    let Some((folder, name)) = rest.and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 32 && name.bytes().all(is_digit) && folder.len() == 2 && name.starts_with(folder)
}

/// A key as a row has it.
fn stored_key(text: &str) -> crate::object_store::Result<ObjectKey> {
    use crate::object_store::{ErrorKind, Operation, StoreError};
    ObjectKey::new(text)
        .map_err(|error| StoreError::new(ErrorKind::Refused, Operation::Head, text, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_made_here_are_known() {
        for prefix in [KEY_PREFIX, UPLOAD_PREFIX] {
            assert!(is_own_key(&new_key(prefix)));
        }
        let name = "ab".repeat(16);
        for other in [
            format!("archive/ab/{name}"),
            format!("media/cd/{name}"),
            format!("media/ab/{name}.png"),
            "media/picture".to_owned(),
        ] {
            assert!(!is_own_key(&ObjectKey::new(other).unwrap()));
        }
    }
}
