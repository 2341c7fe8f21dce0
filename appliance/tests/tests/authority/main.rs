//! The authority under what can happen to a host: its keys are in another process, and its disk is full.

#![forbid(unsafe_code)]

mod full_disk;
mod issuing;
mod keys_elsewhere;
