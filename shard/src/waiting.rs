//! Room for what waits: bounded in number and in bytes (INV-BOUND).
//!
//! What finds no room is refused at once. A place is given back when it is dropped, so nothing that ends in any way keeps one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much waits, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) number: usize,
    pub(crate) bytes: usize,
}

/// Room for so much.
#[derive(Debug)]
pub(crate) struct Room {
    most: Size,
    number: AtomicUsize,
    bytes: AtomicUsize,
}

/// A part of a room.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    size: Size,
}

impl Room {
    pub(crate) fn new(most: Size) -> Arc<Self> {
        Arc::new(Self {
            most,
            number: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        })
    }

    /// A place of this size, if there is room for it. One that alone needs more bytes than there are has an empty room for itself.
    pub(crate) fn take(self: &Arc<Self>, size: Size) -> Option<Place> {
        let number = self.number.fetch_add(size.number, Ordering::Relaxed) + size.number;
        let before = self.bytes.fetch_add(size.bytes, Ordering::Relaxed);
        let place = Place {
            room: self.clone(),
            size,
        };
        let fits = before == 0 || before.saturating_add(size.bytes) <= self.most.bytes;
        (fits && number <= self.most.number).then_some(place)
    }

    /// How much waits in it.
    pub(crate) fn taken(&self) -> Size {
        Size {
            number: self.number.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room
            .number
            .fetch_sub(self.size.number, Ordering::Relaxed);
        self.room
            .bytes
            .fetch_sub(self.size.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(number: usize, bytes: usize) -> Size {
        Size { number, bytes }
    }

    #[test]
    fn a_room_is_bounded_in_number_and_in_bytes() {
        let room = Room::new(size(3, 100));
        let first = room.take(size(1, 60)).unwrap();
        assert!(room.take(size(1, 41)).is_none(), "bytes");
        let second = room.take(size(2, 40)).unwrap();
        assert!(room.take(size(1, 0)).is_none(), "number");
        assert_eq!(room.taken(), size(3, 100), "what is refused takes nothing");
        drop(first);
        let third = room.take(size(1, 1)).unwrap();
        drop((second, third));
        assert_eq!(room.taken(), size(0, 0));
        let large = room.take(size(1, 1000)).unwrap();
        assert!(
            room.take(size(1, 1)).is_none(),
            "it has the room for itself"
        );
        drop(large);
    }
}
