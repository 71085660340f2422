//! Breaks real servers, Conclave's and others', and judges what their locks were worth meanwhile.
//!
//! A run goes like this. A [`place`] gives hosts on a network of their own. A [`target`] says how its servers are started
//! and how its lock is used. Clients ([`client`]) are processes that take locks and tell what happens; one more watches
//! the service. The [`plan`] grows from the seed; the [`nemesis`] does what it says, undoes it and looks whether it is
//! undone. Everything told is stamped on one clock ([`clock`]) and lands on the [`board`]; at the end it is judged in
//! three layers ([`judge`]) and laid into one folder ([`report`]).
//!
//! True of every run:
//! * what was asked for and could not be done is said in the verdict, and the verdict is then no pass;
//! * when it ends, also by a signal, its processes and network are gone; what a killed one leaves, the next removes.

pub mod binary;
pub mod board;
pub mod client;
pub mod clock;
pub mod clocks;
pub mod command;
pub mod disks;
pub mod fleet;
pub mod judge;
pub mod namespace;
pub mod nemesis;
pub mod network;
pub mod place;
pub mod plan;
pub mod record;
pub mod recovery;
pub mod report;
pub mod resource;
pub mod run;
pub mod spawn;
pub mod suite;
pub mod target;
pub mod throttle;
pub mod trial;
pub mod workload;
