//! The charm: every hook gathers facts about the unit, decides on a plan, and applies the steps of that plan.
//!
//! All hooks run the same reconciliation (`reconcile`), in any order: a step that is done is not done again. Each stage
//! has its module: `gather` (facts), `decide` (facts to plan, pure), `apply` (plan to changes). A hook must never exit with
//! an error: Juju would stop there and wait for an operator, and everything that there is to report fits into a status.

mod apply;
mod authorities;
mod authority_files;
mod authority_rotation;
mod backup_settings;
mod certificate_chain;
mod certificate_files;
mod certificates;
mod cluster;
mod cos_relation;
mod db_relation;
mod decide;
mod dispatch;
mod earlier_unit;
mod etcd_config;
mod facts;
mod files;
mod gather;
mod health;
mod hook;
mod hook_end;
mod install;
mod install_method;
mod issued_certificates;
mod legacy_certificates;
mod listening;
mod metrics_server;
mod nrpe_relation;
mod options;
mod pem;
mod reconcile;
mod relation_overrides;
mod report;
mod request_files;
mod restore_state;
mod s3_relation;
mod signing_relation;
mod signing_request;
#[cfg(test)]
mod simulation;
mod tls_relation;
mod unit_record;

pub use dispatch::dispatch;
pub use metrics_server::serve_metrics;
pub use reconcile::run_hook;
