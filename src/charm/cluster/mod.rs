//! The units of the application as members of one etcd cluster: starting it, joining and leaving it.
//!
//! Facts come from etcd's list of members, Juju's goal-state and the files of this unit. The units publish (`databag`)
//! only what these do not contain. `role` and `membership` decide, both pure; `gather` and `apply` talk to Juju and etcd.
//!
//! A unit serves itself: it adds its own member as a learner, and removes its own member when it leaves. etcd accepts one
//! learner at a time, which is the lock between units. The leader only consents, and removes members whose unit is gone.

pub mod apply;
pub mod client_access;
pub mod databag;
pub mod facts;
pub mod gather;
pub mod membership;
pub mod role;
pub mod turn;
