//! What a token makes its bearer besides a user.

/// A role of the staff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaffRole {
    /// Reads reports, and sanctions users.
    Moderator,
    /// Does everything.
    Admin,
}

impl StaffRole {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Moderator, Self::Admin];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The roles of a token; mostly none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaffRoles(u8);

impl StaffRoles {
    /// Whether one of `roles` is among them.
    #[must_use]
    pub fn include_any(self, roles: &[StaffRole]) -> bool {
        roles.iter().any(|role| self.0 & role.bit() != 0)
    }
}

impl FromIterator<StaffRole> for StaffRoles {
    fn from_iter<I: IntoIterator<Item = StaffRole>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}
