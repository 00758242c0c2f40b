//! A private etcd: booted on a directory to prove what is in it, heard by nobody.
//!
//! It listens on sockets in a directory that only we can enter, never on a port: another program of this machine must
//! not read every Secret of a cluster out of a trial boot. Its network is empty, so that a copy of a member can never
//! call that member's peers and vote in its name.

use super::client::Client;
use super::patience;
use super::site::Site;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::process::{Program, Running, cwd_of};
use anyhow::{Context, Result};

/// A member wins the first election if its vote is all it takes. Until one is won, etcd answers no client at all.
const ELECTIONS: usize = 4;
/// What comes after the host looks like a port and is only a part of the file's name; etcd wants no path here.
const CLIENT_SOCKET: &str = "client.sock:0";
const PEER_SOCKET: &str = "peer.sock:0";

/// A private etcd that serves.
#[derive(Debug)]
pub struct Private {
    running: Running,
    client: Client,
    home: Dir,
}

impl Private {
    /// Boots etcd on the data directory `home` as the member `name` with `peer_urls`, and waits until it serves. It
    /// ends when it is dropped, as an operator would end it: all it holds is in its files.
    pub fn boot(site: &Site, home: Dir, name: &str, peer_urls: &str) -> Result<Self> {
        // One that was killed here left its sockets, and etcd 3.4 does not clear them away.
        remove_sockets(&home)?;
        let cluster: Vec<String> = peer_urls.split(',').map(|url| format!("{name}={url}")).collect();
        let running = Program::new(&site.tools.etcd)
            .isolated()
            .cwd(cwd_of(&home))
            .args([
                format!("--name={name}"),
                "--data-dir=.".to_owned(),
                format!("--listen-client-urls=unix://{CLIENT_SOCKET}"),
                format!("--listen-peer-urls=unix://{PEER_SOCKET}"),
                // What the member list will show until the real member starts and says it anew.
                format!("--advertise-client-urls={}", site.endpoint),
                format!("--initial-advertise-peer-urls={peer_urls}"),
                format!("--initial-cluster={}", cluster.join(",")),
                // The highest that etcd advises: a trial must not raise a NOSPACE alarm that then goes live.
                format!("--quota-backend-bytes={}", 8_u64 << 30),
                "--logger=zap".to_owned(),
                // Alone as it is, it may elect itself at once.
                "--heartbeat-interval=10".to_owned(),
                "--election-timeout=50".to_owned(),
            ])
            .start()
            .context("starting a private etcd")?;
        let endpoint = format!("unix://{CLIENT_SOCKET}");
        let client = Client::private(site, &endpoint, &home);
        let mut private = Self { running, client, home };
        private.wait_until_it_serves()?;
        Ok(private)
    }

    /// A client of it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn wait_until_it_serves(&mut self) -> Result<()> {
        let running = &mut self.running;
        let mut alive = || {
            interrupt::check()?;
            running.check().context("booting a private etcd")?;
            if running.words().matches("is starting a new election").count() > ELECTIONS {
                return Err(NotAlone.into());
            }
            Ok(())
        };
        let size = std::fs::metadata(self.home.handle("member/snap/db")).map_or(0, |db| db.len());
        self.client
            .wait_until_serving(patience::for_database(size), &mut alive)
            .map(drop)
            .context("waiting for a private etcd")
    }
}

/// The error of a private etcd that cannot elect itself: its cluster has other members.
#[derive(Debug, Clone, Copy)]
pub struct NotAlone;

impl std::fmt::Display for NotAlone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a private etcd on its data finds no leader alone: its cluster has other members")
    }
}

impl std::error::Error for NotAlone {}

impl Drop for Private {
    fn drop(&mut self) {
        self.running.end();
        let _ = remove_sockets(&self.home);
    }
}

fn remove_sockets(home: &Dir) -> Result<()> {
    [CLIENT_SOCKET, PEER_SOCKET].into_iter().try_for_each(|socket| home.remove_file(socket))
}
