//! A daemon on its sockets.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use cairn_session::windows;
use rustix::net::AddressFamily;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::config::{Address, Config, TlsFiles};
use crate::daemon::{Daemon, StartError};
use crate::unix_socket::{self, SocketFile};
use crate::{accept, services, systemd};

/// How long calls in progress may take to end after the daemon is told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often clients on idle connections are asked whether they are still there, and how long they may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Most calls at a time on one connection. A client that builds many things at once has three for each.
const MAX_CALLS: u32 = 4096;
/// Most bytes of headers of one call.
const MAX_HEADERS: u32 = 64 << 10;
/// How long the daemon waits after a build before it looks for what to remove.
const GC_DELAY: Duration = Duration::from_secs(60);

/// A daemon that listens, but does not serve yet.
pub struct DaemonServer {
    daemon: Daemon,
    listeners: Vec<Listener>,
    /// For TCP; unix sockets are protected by their mode.
    tls: Option<ServerTlsConfig>,
    /// Held for as long as the state directory is in use.
    _lock: fs::File,
}

enum Listener {
    /// With its file, unless somebody else made it.
    Unix(UnixListener, Option<SocketFile>),
    Tcp(TcpListener),
}

impl DaemonServer {
    /// Opens the state directory and binds all addresses.
    ///
    /// # Errors
    /// [`StartError`]: the directory is in use or unusable, the worker cannot start, an address cannot be bound.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let lock = lock_root(&config.root)?;
        let tls = config.tls.as_ref().map(tls).transpose()?;
        let mut listeners = Vec::new();
        for address in &config.addresses {
            let listening = listen(address, config.socket_owner).await;
            listeners.extend(listening.map_err(|source| StartError::Listen {
                address: address.to_string(),
                source,
            })?);
        }
        if tls.is_none() && listeners.iter().any(|listener| matches!(listener, Listener::Tcp(_))) {
            tracing::warn!("TLS is not set up: whoever reaches the TCP address can use this daemon, and read along");
        }
        let daemon = Daemon::open(config).await?;
        Ok(Self {
            daemon,
            listeners,
            tls,
            _lock: lock,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If a socket does not know its address.
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?.to_string())),
            Listener::Unix(listener, _) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned()))
            }
        };
        self.listeners.iter().map(address).collect()
    }

    /// Serves until `stop` fires, then lets calls end for a few seconds.
    ///
    /// # Errors
    /// [`StartError::Serve`] if a socket fails.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        let mut servers = JoinSet::new();
        let mut sockets = Vec::new();
        let places = accept::places();
        for listener in self.listeners {
            let routes = services::routes(&self.daemon);
            let stopped = stop.clone().cancelled_owned();
            match listener {
                Listener::Unix(listener, file) => {
                    sockets.push(file);
                    let incoming = accept::connections(listener, places.clone());
                    let server = plain().add_routes(routes);
                    servers.spawn(server.serve_with_incoming_shutdown(incoming, stopped));
                }
                Listener::Tcp(listener) => {
                    let incoming = accept::connections(listener, places.clone());
                    let mut server = match &self.tls {
                        Some(tls) => secured(tls)?,
                        None => plain(),
                    };
                    let server = server.add_routes(routes);
                    servers.spawn(server.serve_with_incoming_shutdown(incoming, stopped));
                }
            }
        }
        let collector = collect_garbage(&self.daemon, &stop);
        let served = async {
            while let Some(ended) = servers.join_next().await {
                ended
                    .map_err(|error| StartError::Serve(error.to_string()))?
                    .map_err(|error| StartError::Serve(error.to_string()))?;
            }
            Ok(())
        };
        let drained = async {
            stop.cancelled().await;
            self.daemon.jobs.close_all();
            self.daemon.history.dismiss();
            tokio::time::sleep(DRAIN).await;
        };
        let outcome = tokio::select! {
            outcome = served => outcome,
            () = drained => Ok(()),
            () = collector => Ok(()),
        };
        self.daemon.close().await;
        outcome
    }
}

/// Puts the index right after a crash, then removes unused results now and then, while nothing is being built. Never
/// ends.
async fn collect_garbage(daemon: &Daemon, stop: &CancellationToken) {
    daemon.sweep().await;
    loop {
        tokio::time::sleep(GC_DELAY).await;
        if !stop.is_cancelled() && daemon.engine.is_idle() {
            daemon.collect_garbage().await;
        }
    }
}

/// Makes the state directory this daemon's own.
pub(crate) fn lock_root(root: &Path) -> Result<fs::File, StartError> {
    let fail = |message: String| StartError::Root {
        path: root.to_owned(),
        message,
    };
    fs::create_dir_all(root).map_err(|error| fail(error.to_string()))?;
    let path = root.join("cairnd.lock");
    let file = fs::File::create(&path).map_err(|error| fail(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StartError::InUse(root.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(fail(error.to_string())),
    }
}

/// Reads what secures TCP addresses, and tries it.
fn tls(files: &TlsFiles) -> Result<ServerTlsConfig, StartError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| StartError::Tls(format!("failed to read {}: {error}", path.display())))
    };
    let identity = Identity::from_pem(read(&files.cert)?, read(&files.key)?);
    let mut tls = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
    if let Some(authority) = &files.ca {
        // Clients without a certificate that it signed are turned away.
        tls = tls.client_ca_root(Certificate::from_pem(read(authority)?));
    }
    secured(&tls)?;
    Ok(tls)
}

/// A server that outlives clients which do not end their connections.
pub(crate) fn plain() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_CALLS)
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_connection_window_size(windows::CONNECTION)
}

fn secured(tls: &ServerTlsConfig) -> Result<Server, StartError> {
    plain().tls_config(tls.clone()).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        StartError::Tls(format!("{error}{cause}"))
    })
}

async fn listen(address: &Address, owner: (Option<u32>, Option<u32>)) -> io::Result<Vec<Listener>> {
    match address {
        Address::Tcp(host) => Ok(vec![Listener::Tcp(TcpListener::bind(host).await?)]),
        Address::Inherited(name) => systemd::sockets(name)?.into_iter().map(inherited).collect(),
        Address::Unix(path) => {
            let (listener, file) = unix_socket::listen(path, 0o660).await?;
            if let (uid, gid) = owner
                && (uid.is_some() || gid.is_some())
            {
                std::os::unix::fs::chown(path, uid, gid)?;
            }
            Ok(vec![Listener::Unix(listener, Some(file))])
        }
    }
}

/// A socket that somebody else opened.
fn inherited(socket: OwnedFd) -> io::Result<Listener> {
    let is_listening = rustix::net::sockopt::socket_acceptconn(&socket)?;
    let family = rustix::net::getsockname(&socket)?.address_family();
    if !is_listening {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nobody listens on the socket that was handed over",
        ));
    }
    if family == AddressFamily::UNIX {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        return Ok(Listener::Unix(UnixListener::from_std(listener)?, None));
    }
    if family == AddressFamily::INET || family == AddressFamily::INET6 {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        return Ok(Listener::Tcp(TcpListener::from_std(listener)?));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the socket that was handed over is neither unix nor TCP",
    ))
}
