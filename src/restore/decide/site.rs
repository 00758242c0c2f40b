//! Decides whether restore can work on a site.

use crate::etcd::site::Site;
use crate::restore::refusals::Obstacle;

/// Checks that:
///
/// - the data of the site is one directory tree,
/// - a restarted etcd would use the same configuration,
/// - this machine can boot its etcd privately, and can stop and start it.
///
/// # Errors
/// The first obstacle that is found.
pub fn check_site(site: &Site) -> Result<(), Obstacle> {
    if let Some(log) = &site.wal_dir {
        return Err(Obstacle::SeparateLog {
            log: log.to_path_buf(),
            data: site.data_dir.to_path_buf(),
            has_old_log: site.data_dir.join("member/wal").exists(),
            stop: site.service.stop_command(),
            start: site.service.start_command(),
        });
    }
    if let Some(drift) = &site.drift {
        return Err(Obstacle::ConfigurationChanged { drift: drift.clone() });
    }
    // If etcd runs in a container, its program may be missing here.
    if !site.tools.etcd.is_file() {
        return Err(Obstacle::NoServerProgram {
            program: site.tools.etcd.clone(),
            remedy: site.how_to_get_programs(),
        });
    }
    Ok(site.service.check_supervisor()?)
}
