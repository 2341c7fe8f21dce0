//! An echo behind a Unix socket, in a process of its own: `stoq-test-echo PATH`. Says `ready` when it listens and
//! ends when its standard input does, so that it never outlives the test that started it.

#![forbid(unsafe_code)]

use std::io::Write as _;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    stoq_appliance_tests::raise_descriptor_limit();
    let path = std::env::args_os().nth(1).ok_or("usage: stoq-test-echo PATH")?;
    let listener = UnixListener::bind(path)?;
    writeln!(std::io::stdout(), "ready")?;
    let mut stdin = tokio::io::stdin();
    let mut unused = [0; 16];
    loop {
        tokio::select! {
            read = stdin.read(&mut unused) => if read? == 0 { return Ok(()) },
            accepted = listener.accept() => {
                let (mut stream, _) = accepted?;
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    // The client notices an early end.
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
                });
            }
        }
    }
}
