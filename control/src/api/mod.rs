//! The API: HTTP with JSON on a Unix socket, and the client that the command line is. Versioned under /v1.

pub mod client;
pub mod server;
pub mod socket_path;

/// Where a running Crossdock tells what it counted: a [`crate::report::Report`].
pub const STATUS_PATH: &str = "/v1/status";

/// Where the socket is when the rules do not say.
pub const SOCKET_DEFAULT: &str = "/run/crossdock/crossdock.sock";
