//! Files of conversations on the object store: uploaded by clients, checked here, read by clients.
//!
//! ```text
//! upload/<xx>/<32 hexadecimal digits>   what the client puts; it can be replaced as long as its address is valid
//! media/<xx>/<32 hexadecimal digits>    the copy that was checked; no address to write it was ever signed
//! ```
//!
//! - Keys are random and name no shard, so that a range moves without its objects.
//! - [`gate::Gate::check`] copies first and looks at the copy: what arrives under the client's address meanwhile changes
//!   nothing that was checked. Of several checks at once each has a copy of its own, and the row takes one.
//! - INV-BOUND: so many checks at once ([`settings::MediaSettings`]), each of which holds at most one picture or recording;
//!   other files are read in pieces.
//!
//! A crash leaves an upload whose row expires, or a copy that no row names, which [`collect`](crate::jobs) finds by listing.

mod bytes;
mod duration;
pub mod gate;
mod pixels;
pub mod settings;
pub mod types;
pub mod upload;

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

/// A key as a row has it.
fn stored_key(text: &str) -> crate::object_store::Result<ObjectKey> {
    use crate::object_store::{ErrorKind, Operation, StoreError};
    ObjectKey::new(text)
        .map_err(|error| StoreError::new(ErrorKind::Refused, Operation::Head, text, error))
}
