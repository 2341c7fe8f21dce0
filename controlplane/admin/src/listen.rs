//! The sockets of the admin interface: the Unix socket, created so that nobody else can ever connect, and
//! the IPv6 listener for metrics. Not what is said on them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::net::SocketAddrV6;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use stoq_config::SOCKET_PATH_BYTES_MAX;

/// Access to the socket: its owner's alone
const SOCKET_MODE: u32 = 0o600;

/// Connections the kernel keeps waiting
const BACKLOG: i32 = 128;

/// Why a socket cannot be had
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers there
    #[error(
        "another stoqd already serves {}; stop it, or give this one another socket", .0.display()
    )]
    Live(PathBuf),
    /// A file of another kind is in the way
    #[error("{} exists and is no socket; move it away or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The kernel's limit
    #[error(
        "the socket path has {length} octets; the kernel allows {SOCKET_PATH_BYTES_MAX}: choose a shorter one"
    )]
    PathTooLong {
        /// Of the path, or of the temporary one beside it
        length: usize,
    },
    /// The file system said no
    #[error("cannot {action} {}: {source}; check that the directory exists and is writable", path.display())]
    Io {
        /// What was tried
        action: &'static str,
        /// On what
        path: PathBuf,
        /// Why not
        #[source]
        source: io::Error,
    },
    /// The address could not be bound
    #[error("cannot listen on {address}: {source}; choose another address or stop what holds it")]
    Address {
        /// The address
        address: SocketAddrV6,
        /// Why not
        #[source]
        source: io::Error,
    },
}

/// The bound Unix socket; its file goes away with it
#[derive(Debug)]
pub struct AdminSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, so that only this one is removed
    file: (u64, u64),
    /// Held for as long as the socket is; keeps two daemons from starting at the same time
    _lock: File,
}

impl AdminSocket {
    /// Binds `path` with mode 0600, in a Tokio runtime. A live daemon there is refused; the file of a dead
    /// one is replaced. A missing directory is made with mode 0755.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed =
            |action, path: &Path, source| BindError::Io { action, path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| failed("create", directory, error))?;
        let lock = lock_beside(path)?;
        refuse_live(path)?;

        // The socket is born in a directory that nobody else can enter, gets its mode there, and is then
        // moved over whatever dead file is left: at no time can anybody else connect.
        let nest = directory.join(format!(".stoq-{}", std::process::id()));
        let cradle = nest.join("s");
        if cradle.as_os_str().len().max(path.as_os_str().len()) > SOCKET_PATH_BYTES_MAX {
            return Err(BindError::PathTooLong {
                length: cradle.as_os_str().len().max(path.as_os_str().len()),
            });
        }
        match fs::remove_dir_all(&nest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &nest, error));
            }
            _ => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&nest)
            .map_err(|error| failed("create", &nest, error))?;
        let bound = UnixListener::bind(&cradle).and_then(|listener| {
            fs::set_permissions(&cradle, Permissions::from_mode(SOCKET_MODE))?;
            let metadata = fs::metadata(&cradle)?;
            fs::rename(&cradle, path)?;
            Ok((listener, (metadata.dev(), metadata.ino())))
        });
        fs::remove_dir_all(&nest).map_err(|error| failed("remove", &nest, error))?;
        let (listener, file) = bound.map_err(|error| failed("bind", path, error))?;
        Ok(Self { listener, path: path.to_owned(), file, _lock: lock })
    }

    /// Where it is
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket stays behind");
        }
    }
}

/// Takes the lock file beside the socket. The file itself stays: removing it would race with the next
/// daemon that opens it.
fn lock_beside(path: &Path) -> Result<File, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |action, source| BindError::Io { action, path: lock_path.clone(), source };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(SOCKET_MODE)
        .open(&lock_path)
        .map_err(|error| failed("open", error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BindError::Live(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("lock", error)),
    }
}

/// Refuses a path where something answers or where no socket is; a dead socket's file may stay, it is
/// replaced by the rename
fn refuse_live(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { action: "inspect", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// Binds the listener for `/metrics`, in a Tokio runtime; it never takes IPv4, not even at `[::]`
pub fn bind_metrics(address: SocketAddrV6) -> Result<TcpListener, BindError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV6,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| BindError::Address { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run").join("stoqd.sock");
        let live = AdminSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::Live(_))));
        drop(live);
        assert!(!path.exists(), "the file goes away with the socket");

        // A daemon that was killed leaves its file: a listener that closes without removing it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(AdminSocket::bind(&path).unwrap());
    }

    #[tokio::test]
    async fn a_foreign_listener_without_our_lock_is_refused_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::Live(_))));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_long_path_is_refused_with_its_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a".repeat(100));
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::PathTooLong { .. })));
    }
}
