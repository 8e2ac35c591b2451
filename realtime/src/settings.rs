//! The configuration's section `realtime`.

use serde::{Deserialize, Serialize};

/// Bounds of real-time delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealtimeSettings {
    /// Most pushes that wait for one listener; beyond, they are dropped and the listener is told so. 16 to 65,536.
    pub queue: usize,
}

impl Default for RealtimeSettings {
    fn default() -> Self {
        Self { queue: 256 }
    }
}

impl RealtimeSettings {
    /// What is wrong with these settings, each as a sentence that begins with the key's name; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        if (16..=65_536).contains(&self.queue) {
            return Vec::new();
        }
        vec![format!(
            "realtime.queue: {} is not between 16 and 65536",
            self.queue
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert_eq!(RealtimeSettings::default().check(), Vec::<String>::new());
        assert_eq!(
            RealtimeSettings { queue: 0 }.check(),
            ["realtime.queue: 0 is not between 16 and 65536"]
        );
    }
}
