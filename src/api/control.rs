//! Local control: a unix socket that is there for root and for the agent's own user. It is never
//! mounted into a rental.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    path::Path,
};

use tokio::net::{UnixListener, UnixStream};

/// Takes the path: makes its folder, clears away what an earlier process has left there, and lets
/// nobody else in.
///
/// # Errors
/// When the path cannot be had, another agent's listener on it included.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(facts) => {
            use std::os::unix::fs::FileTypeExt;
            if !facts.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something that is no socket has this path",
                ));
            }
            if StdStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another agent listens there",
                ));
            }
            fs::remove_file(path)?;
        }
    }
    // Between bind and chmod anybody could connect; the peer check below is what counts.
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether the other end is root or the agent's own user.
pub(super) fn is_owner(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else {
        return false;
    };
    let own = rustix::process::geteuid().as_raw();
    let owner = peer.uid() == 0 || peer.uid() == own;
    if !owner {
        tracing::warn!(uid = peer.uid(), "a stranger at the control socket");
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_is_taken_when_nobody_listens_there_and_not_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("c.sock");
        let first = bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(&path).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(
            bind(&file).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
