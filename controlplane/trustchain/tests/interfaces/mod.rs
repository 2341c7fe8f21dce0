//! What the tests of the interfaces share: a running authority, and the programs that ask it.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod office;
pub mod tools;
