//! What an operator does with a node: enrol it, start and stop it, configure it, watch it, copy with it.

#![forbid(unsafe_code)]

mod commands;
mod copy;
mod enrolment;
mod lifecycle;
