//! The API: HTTP with JSON on a Unix socket, and the client that the command line is. Versioned under /v1.
//!
//! [`server`] has the socket and the routes, [`connections`] who is connected, [`openapi`] the API's description. A request
//! that is not followed gets a [`problem`].

pub mod changes;
pub mod client;
pub mod connections;
pub mod explain;
pub mod flows;
pub mod openapi;
pub mod problem;
pub mod remote;
pub mod server;
pub mod socket_path;

/// Where a running Crossdock tells what it counted: a [`crate::report::Report`].
pub const STATUS_PATH: &str = "/v1/status";

/// The connections: GET lists them as [`crate::flows::Connection`], a line each; DELETE forgets them. With a
/// [`crate::flows::Query`] after the question mark.
pub const FLOWS_PATH: &str = "/v1/flows";

/// How many connections a query matches.
pub const FLOWS_COUNT_PATH: &str = "/v1/flows/count";

/// What would happen to a packet: POST a [`crate::explain::Question`], get a [`crate::explain::Explanation`].
pub const EXPLAIN_PATH: &str = "/v1/explain";

/// The rules in force, as a rules file: GET, and PUT for others in their place.
pub const RULES_PATH: &str = "/v1/rules";

/// POST a [`changes::Transaction`].
pub const CHANGES_PATH: &str = "/v1/changes";

/// The revisions of the rules that are remembered.
pub const REVISIONS_PATH: &str = "/v1/revisions";

/// POST goes back to an earlier revision.
pub const ROLLBACK_PATH: &str = "/v1/rollback";

/// The services, one of them below it, and its backends below that.
pub const SERVICES_PATH: &str = "/v1/services";

/// The API's own description.
pub const OPENAPI_PATH: &str = "/v1/openapi.json";

/// Where the socket is when the rules do not say.
pub const SOCKET_DEFAULT: &str = "/run/crossdock/crossdock.sock";
