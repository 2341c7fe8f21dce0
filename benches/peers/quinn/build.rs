//! Takes the versions of the stack and of its cryptography from the lock file.

#![forbid(unsafe_code)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    peer_lock::version("STACK_VERSION", "quinn")?;
    peer_lock::version("CRYPTO_VERSION", "aws-lc-rs")
}
