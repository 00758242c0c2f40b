//! The network connections of a bucket. Every wait on one ends within a second of a signal, whatever the server does.
//!
//! ureq's own connections look for a signal only between two waits, and one wait may last minutes. These wait in short
//! steps. This module must never decide how long a server may be silent: the request does.

use super::early_answer::{EarlyAnswers, is_closed_by_server};
use crate::system::interrupt;
use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    RustlsConnector, Transport,
};
use ureq::{Agent, Error, Timeout};

/// The interval at which a wait looks for a signal.
const TICK: Duration = Duration::from_millis(100);
/// How long all cleaning up after a signal may take.
const GRACE: Duration = Duration::from_millis(700);
/// The most addresses of a server that are tried.
const MAX_ADDRESSES: usize = 4;
/// The first bytes of a TLS alert: what a server that expects TLS may answer to plain HTTP.
const TLS_ALERT: [u8; 2] = [0x15, 3];
/// The text of the error for such an answer.
pub(in crate::store) const ANSWERED_TLS: &str = "the server answered with TLS";
/// The text of the error of a request that is no longer needed, because another one has failed.
pub(in crate::store) const ABANDONED: &str = "abandoned, because another request failed";

/// What a signal means for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum OnSignal {
    /// Every wait ends.
    Stop,
    /// Waits may go on for [`GRACE`] in all, to remove what is not finished.
    CleanUp,
}

impl OnSignal {
    /// Fails if a signal has arrived that ends the wait.
    fn check(self) -> io::Result<()> {
        /// When cleaning up after the signal began.
        static CLEANING_SINCE: OnceLock<Instant> = OnceLock::new();
        let is_over = interrupt::requested().is_some()
            && match self {
                Self::Stop => true,
                Self::CleanUp => CLEANING_SINCE.get_or_init(Instant::now).elapsed() > GRACE,
            };
        if is_over { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }
}

/// Makes an agent. Its waits end on a signal.
pub(in crate::store) fn agent(config: Config, on_signal: OnSignal) -> Agent {
    let connector = ConnectProxyConnector::default()
        .chain(TcpConnector(on_signal))
        .chain(RustlsConnector::default())
        .chain(EarlyAnswers);
    Agent::with_parts(config, connector, NameResolver(on_signal))
}

/// Looks up names, on a thread of its own: the C library cannot be interrupted.
#[derive(Debug)]
struct NameResolver(OnSignal);

impl Resolver for NameResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(Error::BadUri("it has no server".to_owned()));
        };
        let name = DefaultResolver::host_and_port(scheme, authority).ok_or(Error::HostNotFound)?;
        let addresses = wait_for(self.0, timeout, move || name.to_socket_addrs().map(Vec::from_iter))?;
        let mut resolved = self.empty();
        addresses.into_iter().take(MAX_ADDRESSES).for_each(|address| resolved.push(address));
        if resolved.is_empty() { Err(Error::HostNotFound) } else { Ok(resolved) }
    }
}

/// Opens TCP connections.
#[derive(Debug)]
struct TcpConnector(OnSignal);

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, TcpConnection>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let addresses: Vec<SocketAddr> = details.addrs.iter().copied().collect();
        let limit = *details.timeout.after / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let stream = wait_for(self.0, details.timeout, move || connect_to_one(&addresses, limit))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        let config = details.config;
        Ok(Some(Either::B(TcpConnection {
            stream,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            on_signal: self.0,
            is_unanswered_plain_http: details.uri.scheme() == Some(&Scheme::HTTP),
            is_closed_by_server: false,
        })))
    }
}

/// Connects to the first address that answers. Each may take `limit`.
fn connect_to_one(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::ConnectionRefused);
    for address in addresses {
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Runs `work`, which ends by itself, on a thread, and waits for its result until a signal arrives or the time is over.
fn wait_for<T: Send + 'static>(
    on_signal: OnSignal,
    timeout: NextTimeout,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let since = Instant::now();
    let (sender, result) = mpsc::sync_channel(1);
    let work = move || {
        // If the wait is over, no one receives the result.
        let _ = sender.send(work());
    };
    thread::Builder::new().name("connect".to_owned()).spawn(work)?;
    loop {
        match result.recv_timeout(TICK) {
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                return Err(Error::Timeout(timeout.reason));
            }
            Ok(result) => return Ok(result?),
            Err(RecvTimeoutError::Timeout) if since.elapsed() < *timeout.after => on_signal.check()?,
            Err(RecvTimeoutError::Timeout) => return Err(Error::Timeout(timeout.reason)),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::ConnectionFailed),
        }
    }
}

/// A TCP connection.
struct TcpConnection {
    stream: TcpStream,
    buffers: LazyBuffers,
    on_signal: OnSignal,
    /// Whether plain HTTP is spoken and the server has not answered yet.
    is_unanswered_plain_http: bool,
    /// Whether a write has failed because the server has closed the connection.
    is_closed_by_server: bool,
}

impl TcpConnection {
    /// Repeats a read or a write until it moves bytes, a signal arrives, or the limit is exceeded.
    fn retry(
        &mut self,
        limit: NextTimeout,
        mut operation: impl FnMut(&mut Self) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        let since = Instant::now();
        loop {
            self.on_signal.check()?;
            match operation(self) {
                Err(error) if is_temporary(&error) && since.elapsed() < *limit.after => {}
                Err(error) if is_temporary(&error) => return Err(Error::Timeout(limit.reason)),
                moved => return Ok(moved?),
            }
        }
    }

    /// Fails if the first bytes of the answer to plain HTTP are a TLS alert.
    fn check_first_answer(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_unanswered_plain_http) {
            return Ok(());
        }
        match self.buffers.input().starts_with(&TLS_ALERT) {
            true => Err(Error::Tls(ANSWERED_TLS)),
            false => Ok(()),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Transport for TcpConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let since = Instant::now();
        // The caller knows of the first error. TLS repeats the write before it reads the answer.
        let mut sent = if self.is_closed_by_server { amount } else { 0 };
        while sent < amount {
            let left = timeout.after.saturating_sub(since.elapsed());
            let limit = NextTimeout { after: left.into(), ..timeout }.for_write();
            let written = |this: &mut Self| this.stream.write(&this.buffers.output()[sent..amount]);
            match self.retry(limit, written) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => sent += written,
                Err(error) => {
                    self.is_closed_by_server =
                        matches!(&error, Error::Io(error) if is_closed_by_server(error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let limit = timeout.for_read();
        if limit.after.is_zero() {
            return Err(Error::Timeout(limit.reason));
        }
        let received = self.retry(limit, |this| this.stream.read(this.buffers.input_append_buf()))?;
        self.buffers.input_appended(received);
        self.check_first_answer()?;
        Ok(received > 0)
    }

    /// Returns whether the connection can be used again. Bytes that were not asked for are a reason against it.
    fn is_open(&mut self) -> bool {
        let is_silent = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.stream.set_nonblocking(true).is_ok()
            && is_silent(&mut self.stream)
            && self.stream.set_nonblocking(false).is_ok()
    }
}

impl Debug for TcpConnection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnection")
            .field("address", &self.stream.peer_addr().ok())
            .finish_non_exhaustive()
    }
}

/// Returns whether an error says that the server was silent for too long.
pub(in crate::store) fn is_stall(error: &Error) -> bool {
    let reasons = [Timeout::PerRead, Timeout::PerWrite, Timeout::RecvResponse, Timeout::PerCall];
    matches!(error, Error::Timeout(reason) if reasons.contains(reason))
}
