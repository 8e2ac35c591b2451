//! Which staff may call which route of `/admin`: one table.
//!
//! A route that has no row is refused to everybody, and a test fails.

use axum::http::Method;

use crate::auth::{StaffRole, StaffRoles};

/// What administrators and moderators do.
const MODERATION: &[StaffRole] = &[StaffRole::Moderator, StaffRole::Admin];
/// What administrators do.
const ADMINISTRATION: &[StaffRole] = &[StaffRole::Admin];

/// A route and those who may call it.
type Row = (Method, &'static str, &'static [StaffRole]);

/// Every route of `/admin`.
pub(super) const ACCESS: &[Row] = &[
    (Method::GET, "/admin/users/{userId}/sanctions", MODERATION),
    (Method::POST, "/admin/users/{userId}/sanctions", MODERATION),
    (
        Method::DELETE,
        "/admin/users/{userId}/sanctions",
        MODERATION,
    ),
    (Method::POST, "/admin/users/{userId}/revoke", MODERATION),
    (Method::GET, "/admin/reports", MODERATION),
    (
        Method::POST,
        "/admin/reports/{reportId}/resolve",
        MODERATION,
    ),
    (Method::GET, "/admin/audit", ADMINISTRATION),
    (Method::POST, "/admin/notifications", ADMINISTRATION),
    (Method::POST, "/admin/events", ADMINISTRATION),
    (Method::GET, "/admin/presence", ADMINISTRATION),
    (Method::POST, "/admin/messages", ADMINISTRATION),
];

/// Whether somebody with these roles may call a route.
pub(super) fn admits(roles: StaffRoles, method: &Method, path: &str) -> bool {
    // A HEAD is answered by the route of its GET.
    let method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut rows = ACCESS.iter();
    let row = rows.find(|(its_method, its_path, _)| its_method == method && *its_path == path);
    row.is_some_and(|(_, _, admitted)| roles.include_any(admitted))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::single_routes;

    /// The routes that are served, by their documents.
    fn served() -> BTreeSet<(String, String)> {
        let document = serde_json::to_value(single_routes().into_openapi()).unwrap();
        let mut served = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            let methods =
                methods.filter(|it| Method::from_bytes(it.to_uppercase().as_bytes()).is_ok());
            let methods = methods
                .filter(|it| ["get", "post", "put", "patch", "delete"].contains(&it.as_str()));
            for method in methods.filter(|_| path.starts_with("/admin")) {
                served.insert((method.to_uppercase(), path.clone()));
            }
        }
        served
    }

    #[test]
    fn every_route_has_one_row_and_every_row_a_route() {
        let rows: Vec<(String, String)> = ACCESS
            .iter()
            .map(|(method, path, _)| (method.to_string(), (*path).to_owned()))
            .collect();
        let all: BTreeSet<(String, String)> = rows.iter().cloned().collect();
        assert_eq!(all.len(), rows.len(), "a route has two rows");
        assert_eq!(all, served());
    }

    #[test]
    fn a_route_without_a_row_is_nobodys() {
        let all = StaffRole::ALL.into_iter().collect::<StaffRoles>();
        assert!(!admits(all, &Method::GET, "/admin/secrets"));
        assert!(!admits(all, &Method::PUT, "/admin/audit"));
        assert!(admits(all, &Method::HEAD, "/admin/audit"));
        assert!(!admits(StaffRoles::default(), &Method::GET, "/admin/audit"));
    }
}
