//! A sink of one's own: a child process of this very program, told its identity over a pipe, ended by closing
//! that pipe. Its first line of output says where it listens.

use std::net::SocketAddrV6;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::command_line::TuningArgs;
use crate::identity::Bundle;
use crate::sink::Failure;
use crate::units::Cores;

/// A running sink; dropped, it is killed
pub struct SinkProcess {
    child: Child,
    input: ChildStdin,
    address: SocketAddrV6,
    output: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl SinkProcess {
    /// Starts a sink on a free port of `[::1]`
    pub async fn start(
        cores: &Cores,
        tuning: &TuningArgs,
        identity: &Bundle,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["sink", "--identity=-", "--json", "--listen=[::1]:0"])
            .arg(format!("--cores={cores}"))
            .args(tuning.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the sink has no pipes".into());
        };
        let mut bundle = serde_json::to_vec(identity)?;
        bundle.push(b'\n');
        input.write_all(&bundle).await?;
        let mut lines = BufReader::new(output).lines();
        let ready = lines.next_line().await?;
        let ready = ready.ok_or("the sink ended before it listened; its reason is above")?;
        let ready: serde_json::Value = serde_json::from_str(&ready)?;
        let address = ready["address"].as_str().ok_or("the sink does not say where it listens")?;
        let address = address.parse()?;
        // The rest of its output is read so that the pipe never fills; verdicts come back over the flows.
        let output = tokio::spawn(async move {
            while lines.next_line().await?.is_some() {}
            Ok(())
        });
        Ok(Self { child, input, address, output })
    }

    /// Where it listens
    pub fn address(&self) -> SocketAddrV6 {
        self.address
    }

    /// Lets it end and waits for it
    pub async fn end(mut self) -> Result<(), Failure> {
        drop(self.input);
        let status = self.child.wait().await?;
        self.output.await??;
        if status.success() { Ok(()) } else { Err(format!("the sink ended with {status}").into()) }
    }
}
