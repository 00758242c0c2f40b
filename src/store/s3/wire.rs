//! Requests to a bucket: signed, sent, tried again where that may help, and their errors in the server's own words.
//!
//! Must never hold more than one part in memory, nor show a URL that was signed or a header that was sent.

use super::agent::stall;
use super::credentials::{Credentials, Login};
use super::place::Place;
use super::sign::{Unsigned, query, signature};
use super::trouble::Trouble;
use crate::system::clock::Clock;
use crate::system::{interrupt, random};
use anyhow::{Result, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Request};
use ureq::{Agent, SendBody};

/// How often a request is sent before its failure is told.
pub const TRIES: u32 = 5;
/// The longest pause before the second try; it doubles from try to try.
const PAUSE: Duration = Duration::from_millis(400);
/// No server may make us wait longer than this before a try.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// A part and change: no answer of a bucket is longer.
const LONGEST_ANSWER: u64 = 17 << 20;
/// A role's key is fetched anew when it has less than this to live.
const FRESH: SignedDuration = SignedDuration::from_mins(5);

/// The way to one bucket.
#[derive(Debug)]
pub struct Wire {
    /// Where the bucket is.
    pub place: Place,
    login: Login,
    agent: Agent,
    key: Mutex<Option<Credentials>>,
    clock: Clock,
}

/// A request.
#[derive(Default)]
pub struct Ask<'a> {
    /// `GET`, `PUT`…
    pub method: &'static str,
    /// The object; empty for the bucket.
    pub key: &'a str,
    /// Names and values of the query.
    pub query: Vec<(&'static str, String)>,
    /// Headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: &'a [u8],
    /// Hears how many bytes of the body have gone out; anew with every try.
    pub sent: Option<&'a dyn Fn(u64)>,
}

/// An answer that is no error.
#[derive(Debug)]
pub struct Answer {
    headers: HeaderMap,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }
}

impl Wire {
    /// The way to `place` by `agent`, with signatures of the time that `clock` tells.
    pub fn new(place: Place, login: Login, agent: Agent, clock: Clock) -> Self {
        Self { place, login, agent, key: Mutex::new(None), clock }
    }

    /// Sends a request up to [`TRIES`] times. An error of the server is a [`Trouble`].
    pub fn ask(&self, ask: &Ask<'_>) -> Result<Answer> {
        let mut tries = 1;
        loop {
            let trouble = match self.once(ask)? {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            if tries == TRIES || !trouble.may_pass() {
                return Err(trouble.after(tries).into());
            }
            wait(pause(tries, trouble.retry_after)?)?;
            tries += 1;
        }
    }

    /// Sends a request once, though a signal asks us to stop: to clear up.
    pub fn clear_up(&self, ask: &Ask<'_>) -> Result<Answer> {
        let _deferred = interrupt::defer();
        Ok(self.once(ask)??)
    }

    /// One try. The outer error is one that no further try mends.
    fn once(&self, ask: &Ask<'_>) -> Result<Result<Answer, Trouble>> {
        interrupt::check()?;
        let now = self.clock.now();
        let key = self.credentials(now)?;
        let path = self.place.path(ask.key);
        let mut headers = vec![("host", self.place.host().to_owned())];
        headers.extend(ask.headers.iter().cloned());
        let what = Unsigned {
            method: ask.method,
            path: &path,
            query: &ask.query,
            headers: &headers,
            body: ask.body,
            region: &self.place.region,
        };
        headers.extend(signature(&what, &key, now));
        let url = self.place.url(&path, &query(&ask.query));
        let answer = match send(&self.agent, ask, &url, &headers) {
            Ok(answer) => answer,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(Trouble::on_the_way(&error)));
            }
        };
        let (parts, body) = answer.into_parts();
        let body = match read(body) {
            Ok(body) => body,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(Trouble::on_the_way(&ureq::Error::Io(error))));
            }
        };
        if parts.status.is_success() && !Trouble::is_in(ask.method, &body) {
            return Ok(Ok(Answer { headers: parts.headers, body }));
        }
        Ok(Err(Trouble::told(parts.status.as_u16(), &parts.headers, &body, now)))
    }

    fn credentials(&self, now: Timestamp) -> Result<Credentials> {
        let Ok(mut kept) = self.key.lock() else { bail!("another thread of ours failed") };
        let ends = |key: &Credentials| key.expires.is_some_and(|end| now.duration_until(end) < FRESH);
        if let Some(key) = kept.as_ref().filter(|key| !ends(key)) {
            return Ok(key.clone());
        }
        Ok(kept.insert(self.login.credentials()?).clone())
    }
}

fn send(
    agent: &Agent,
    ask: &Ask<'_>,
    url: &str,
    headers: &[(&str, String)],
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let mut request = Request::builder().method(ask.method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, value.as_str());
    }
    if !matches!(ask.method, "PUT" | "POST") {
        let request = agent.configure_request(request.body(())?);
        return agent.run(request.timeout_per_read(Some(stall(ask.method))).build());
    }
    let mut body = Watched { left: ask.body, of: ask.body.len(), sent: ask.sent };
    agent.run(request.header("content-length", ask.body.len()).body(SendBody::from_reader(&mut body))?)
}

/// A body that ends early when a signal asks us to stop: a part on a slow link takes minutes.
struct Watched<'a> {
    left: &'a [u8],
    of: usize,
    sent: Option<&'a dyn Fn(u64)>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if interrupt::requested().is_some() {
            return Err(io::Error::other("interrupted"));
        }
        // What was given out before is on its way by now.
        if let Some(sent) = self.sent {
            sent((self.of - self.left.len()) as u64);
        }
        self.left.read(buffer)
    }
}

fn read(body: ureq::Body) -> io::Result<Vec<u8>> {
    let mut reader = body.into_with_config().limit(LONGEST_ANSWER).reader();
    let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        if interrupt::requested().is_some() {
            return Err(io::Error::other("interrupted"));
        }
        match reader.read(&mut chunk)? {
            0 => return Ok(all),
            length => all.extend_from_slice(&chunk[..length]),
        }
    }
}

/// A pause that doubles from try to try, half of it by chance, so that many units do not come back at once; or the one that
/// the server asks for.
fn pause(tries: u32, asked: Option<Duration>) -> Result<Duration> {
    let longest = PAUSE.saturating_mul(1 << (tries - 1)).min(LONGEST_PAUSE);
    let chance = random::below(u64::try_from(longest.as_millis())?)?;
    let own = longest / 2 + Duration::from_millis(chance / 2);
    Ok(asked.unwrap_or(own).min(LONGEST_PAUSE))
}

fn wait(pause: Duration) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < pause {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(20).min(pause));
    }
    Ok(())
}

/// A header's value, empty where there is none.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Why a request did not come through, in words of the machine and not of the library.
pub(super) fn words(error: &ureq::Error) -> anyhow::Error {
    match error {
        // rustls' words about a certificate come wrapped.
        ureq::Error::Io(error) if error.to_string().starts_with("invalid peer certificate") => {
            anyhow!("TLS: {error}")
        }
        // As the standard library words it.
        ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
            anyhow!("the host is not known on this machine ({error})")
        }
        ureq::Error::Io(error) => anyhow!("{error}"),
        ureq::Error::HostNotFound => anyhow!("the host is not known on this machine"),
        ureq::Error::Timeout(what) => anyhow!("the server took too long ({what})"),
        ureq::Error::Rustls(error) => anyhow!("TLS: {error}"),
        ureq::Error::ConnectProxyFailed(why) => anyhow!("the proxy lets nothing through: {why}"),
        ureq::Error::StatusCode(status) => anyhow!("it answers with status {status}"),
        other => anyhow!("{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_chance_and_have_an_end() {
        for tries in 1..12 {
            let longest = PAUSE.saturating_mul(1 << (tries - 1)).min(LONGEST_PAUSE);
            let pause = pause(tries, None).unwrap();
            assert!(pause >= longest / 2 && pause <= longest, "{tries}: {pause:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(7))).unwrap(), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(7000))).unwrap(), LONGEST_PAUSE);
    }
}
