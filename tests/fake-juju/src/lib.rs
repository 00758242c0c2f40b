//! The rules of Juju 2.9 to 4.0 that the simulators in the tests share: words, parameters, options, resources, results,
//! statuses, and a model with several units. The hook tools of one unit are `tests/it/common/hook-tool`; those of `model` need
//! more state.
//!
//! The rules are from the source of Juju, and from observing a controller (4.0.13) and the hook tools of 2.9.52 and 3.6.26.
//! Knows nothing of the charm: its YAML files are arguments.

pub mod model;
pub mod options;
pub mod parameters;
pub mod resources;
pub mod results;
pub mod status;
mod words;
