//! The path of the file in which an operator describes etcd. A message can name it without reading it.

/// The site file of this machine, which is read if it exists.
pub const SITE_FILE: &str = "/etc/etcd-backup/site.yaml";
