//! A client's certificate, read for what keeps etcd from taking it: etcd tells its client nothing but a closed connection.
//!
//! Must never judge whether a signature is right, nor hold a key: it reads dates and uses.

use super::site::Tls;
use anyhow::{Context, Result};
use jiff::{Timestamp, ToSpan};
use std::fs;
use std::path::Path;
use x509_cert::Certificate;
use x509_cert::ext::pkix::ExtendedKeyUsage;

/// The extended key usage of clients, 1.3.6.1.5.5.7.3.2 (RFC 5280, 4.2.1.12).
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// How long before its end a certificate is worth a warning, in days.
const SOON: i64 = 30;

/// A certificate, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// When it begins to be valid.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Whether a client may show it.
    pub for_clients: bool,
}

impl Dates {
    /// Of the first certificate in the PEM file `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the certificate {}", path.display());
        let bytes = fs::read(path).with_context(reading)?;
        let chain = Certificate::load_pem_chain(&bytes).with_context(reading)?;
        let first =
            chain.first().context("there is none in it").with_context(reading)?.tbs_certificate.clone();
        let seconds = |time: x509_cert::time::Time| {
            Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs())?).context("its dates")
        };
        let usage = first.get::<ExtendedKeyUsage>().with_context(reading)?;
        Ok(Self {
            from: seconds(first.validity.not_before)?,
            until: seconds(first.validity.not_after)?,
            // Who says nothing of its use may be used for all.
            for_clients: usage
                .is_none_or(|(_, usage)| usage.0.iter().any(|id| id.to_string() == CLIENT_AUTH)),
        })
    }
}

/// What is wrong at `now` with the certificate that a client shows, in words; `None` where nothing is, or none is shown.
pub fn trouble(tls: &Tls, now: Timestamp) -> Option<String> {
    let path = tls.cert.as_ref()?;
    let dates = match Dates::read(path) {
        Ok(dates) => dates,
        Err(error) => return Some(format!("{error:#}")),
    };
    let cert = path.display();
    if !dates.for_clients {
        return Some(format!("{cert} is a certificate for servers only"));
    }
    if now < dates.from {
        return Some(format!("{cert} is not valid before {}, and the clock says {now:.0}", dates.from));
    }
    (now > dates.until).then(|| format!("{cert} expired on {}", dates.until))
}

/// That the certificate which a client shows ends within a month, in words.
pub fn ends_soon(tls: &Tls, now: Timestamp) -> Option<String> {
    let path = tls.cert.as_ref()?;
    let until = Dates::read(path).ok()?.until;
    let soon = now <= until && until < now.checked_add((SOON * 24).hours()).ok()?;
    soon.then(|| format!("{} expires on {until}", path.display()))
}
