//! Owns what happens on an interrupt: a flag goes up, and whoever is at work fails at its next look.
//!
//! Dying on the spot would leave a detached etcd running and a download half done; an ordinary
//! failure cleans up. A second interrupt does end the process at once. It must never clean up by
//! itself: that belongs to whoever made the mess.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on an interrupt is noticed by [`check`].
pub fn watch() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag down and raises it, the second finds it up.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&SEEN))
            .and_then(|_| flag::register(signal, Arc::clone(&SEEN)))
            .context("the interrupt signals cannot be watched")?;
    }
    Ok(())
}

/// Fails once there was an interrupt.
pub fn check() -> Result<()> {
    if SEEN.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
