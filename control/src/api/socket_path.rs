//! The path of a Unix socket before somebody listens there: what a dead process left goes, nothing else does.
//!
//! Also used for memif's sockets. Read first: unix(7) on pathname sockets.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What is left at a path after [`remove_dead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// It is free.
    Nobody,
    /// A socket that somebody listens on, as far as can be told.
    Listener,
    /// A file that is no socket, or a symbolic link.
    NoSocket(FileType),
}

/// Removes a socket that nobody listens on any more.
///
/// # Errors
/// When the file system refuses.
pub fn remove_dead(path: &Path) -> io::Result<Occupant> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Ok(Occupant::NoSocket(file_type));
    }
    // A live socket of another type (memif's are SOCK_SEQPACKET) or mode refuses for that reason, not for want of a
    // listener.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map(|()| Occupant::Nobody)
        }
        _ => Ok(Occupant::Listener),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_dead_socket_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        assert_eq!(remove_dead(&path).unwrap(), Occupant::Nobody);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(remove_dead(&path).unwrap(), Occupant::Listener);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        drop(listener);
        assert!(matches!(remove_dead(&link).unwrap(), Occupant::NoSocket(_)));
        assert_eq!(remove_dead(&path).unwrap(), Occupant::Nobody);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(remove_dead(&path).unwrap(), Occupant::NoSocket(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
