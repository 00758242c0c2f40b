//! What grants access for a limited time: kept while it is valid, renewed before it ends, and discarded if the server
//! refuses it.
//!
//! It must never print a token. It does not know where a token comes from.

use crate::system::secret::Secret;
use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use std::fmt::{self, Debug, Formatter};
use std::sync::Mutex;

/// How long before its end a token is renewed. A token that lives less than twice as long is renewed after half of its
/// life. Google's metadata server itself gives out the old token until five minutes before its end.
const RENEWAL_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// The pause after a renewal that failed. The token is used until it ends, because Azure's metadata service may be
/// away for 70 seconds while it is updated.
const RENEWAL_PAUSE: SignedDuration = SignedDuration::from_secs(30);

/// Something that grants access until it ends: an access token, or an access key with its session.
pub(in crate::store) trait Temporary: Clone {
    /// Returns when it ends.
    fn end(&self) -> Timestamp;
}

/// A token, and when it ends.
#[derive(Debug, Clone)]
pub(in crate::store) struct AccessToken {
    pub secret: Secret,
    pub end: Timestamp,
}

impl Temporary for AccessToken {
    fn end(&self) -> Timestamp {
        self.end
    }
}

/// The token of one identity. All threads share it.
pub(in crate::store) struct TokenCache<T = AccessToken>(Mutex<Option<CachedToken<T>>>);

struct CachedToken<T> {
    token: T,
    /// The time of the request that it was obtained for.
    since: Timestamp,
    /// From this time on, a new one is requested.
    renewal: Timestamp,
}

impl<T> Default for TokenCache<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Debug for TokenCache<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCache(…)")
    }
}

impl<T: Temporary> TokenCache<T> {
    /// Returns the token for a request at `now`. Calls `obtain` if there is no token, or if it ends soon. Other threads
    /// wait for the new token.
    ///
    /// # Errors
    /// Fails if no token can be obtained, and there is none that is still valid.
    pub fn get(&self, now: Timestamp, obtain: impl FnOnce() -> Result<T>) -> Result<T> {
        let Ok(mut cached) = self.0.lock() else { bail!("another thread of this program failed") };
        if let Some(cached) = cached.as_ref().filter(|cached| now < cached.renewal) {
            return Ok(cached.token.clone());
        }
        let error = match obtain() {
            Ok(token) => return Ok(cached.insert(CachedToken::new(token, now)).token.clone()),
            Err(error) => error,
        };
        match cached.as_mut().filter(|cached| now < cached.token.end()) {
            Some(old) => {
                old.renewal = (now + RENEWAL_PAUSE).min(old.token.end());
                Ok(old.token.clone())
            }
            None => Err(error),
        }
    }

    /// Discards the token that a request at `sent` contained, because the server refused it. Returns whether the request
    /// may be repeated with another token. A newer token stays: another thread has obtained it since.
    pub fn discard(&self, sent: Timestamp) -> bool {
        let Ok(mut cached) = self.0.lock() else { return false };
        if cached.as_ref().is_some_and(|cached| cached.since <= sent) {
            *cached = None;
        }
        true
    }
}

impl<T: Temporary> CachedToken<T> {
    fn new(token: T, now: Timestamp) -> Self {
        let end = token.end();
        let margin = RENEWAL_MARGIN.min(now.duration_until(end) / 2);
        Self { renewal: end - margin, since: now, token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::cell::Cell;

    /// A time: this number of seconds after the epoch.
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns the token for a request at `now`. A new one is called `new` and lives for `lifetime`.
    fn get(cache: &TokenCache, now: i64, new: &str, lifetime: i64) -> String {
        let obtain = || Ok(AccessToken { secret: Secret::new(new), end: at(now + lifetime) });
        cache.get(at(now), obtain).unwrap().secret.reveal().to_owned()
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        for (lifetime, last_use) in [(3600, 3299), (600, 299), (240, 119), (2, 0)] {
            let cache = <TokenCache>::default();
            assert_eq!(get(&cache, 0, "first", lifetime), "first");
            assert_eq!(get(&cache, last_use, "second", lifetime), "first", "{lifetime}");
            assert_eq!(get(&cache, last_use + 1, "second", lifetime), "second", "{lifetime}");
        }
    }

    #[test]
    fn a_token_is_used_until_it_ends_if_it_cannot_be_renewed() {
        let cache = <TokenCache>::default();
        let attempts = Cell::new(0);
        let fail = || {
            attempts.set(attempts.get() + 1);
            Err(anyhow!("away"))
        };
        assert!(cache.get(at(0), fail).is_err());
        get(&cache, 0, "first", 600);
        for (now, attempted) in [(299, 1), (300, 2), (329, 2), (330, 3), (599, 4)] {
            assert_eq!(cache.get(at(now), fail).unwrap().secret.reveal(), "first", "{now}");
            assert_eq!(attempts.get(), attempted, "{now}");
        }
        assert_eq!(cache.get(at(600), fail).unwrap_err().to_string(), "away");
        assert_eq!(get(&cache, 601, "second", 600), "second");
    }

    #[test]
    fn only_the_refused_token_is_discarded() {
        let cache = <TokenCache>::default();
        get(&cache, 10, "first", 600);
        assert!(cache.discard(at(10)));
        assert_eq!(get(&cache, 20, "second", 600), "second");
        // The answer to a request that was sent with the first token.
        assert!(cache.discard(at(15)));
        assert_eq!(get(&cache, 21, "third", 600), "second");
    }

    #[test]
    fn a_token_is_never_shown() {
        let cache = <TokenCache>::default();
        get(&cache, 0, "canary", 600);
        assert_eq!(format!("{cache:?}"), "TokenCache(…)");
    }
}
