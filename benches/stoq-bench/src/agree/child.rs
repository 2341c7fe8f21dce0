//! A validator in a process of its own: what it is told on its standard input and says on its standard output, a line of
//! JSON each. It ends with its input.

use std::collections::HashMap;
use std::io::BufRead;
use std::net::SocketAddrV6;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use stoq_hypermesh::operation::ValidatorKey;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::member::{Order, Prepared};
use super::processor_time;
use crate::render;
use crate::sink::Failure;

/// Longest wait for an answer
const PATIENCE: Duration = Duration::from_secs(90);

/// `stoq-bench agree-validator`
#[derive(Args, Clone, Debug)]
pub struct ValidatorArgs {}

/// What a process is told
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// At first
    Order(Box<Order>),
    /// Where everyone listens, by name
    Addresses(HashMap<String, SocketAddrV6>),
    /// Say when all of these are convicted
    Watch(Vec<[u8; 32]>),
    /// Vote twice from now on
    Lie,
    /// Say how much processor time was spent
    Spent,
}

/// What a process says
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// To [`Told::Order`]
    Listening(SocketAddrV6),
    /// To [`Told::Addresses`]
    Ready,
    /// To [`Told::Watch`]: for each key
    ConvictedNs(Vec<u64>),
    /// To [`Told::Lie`]
    LiedNs(u64),
    /// To [`Told::Spent`]
    SpentNs(u64),
}

fn say(said: &Said) -> Result<(), Failure> {
    Ok(render::line(&serde_json::to_string(said)?)?)
}

/// The process
pub fn run(_args: &ValidatorArgs) -> Result<(), Failure> {
    let (tell, mut told) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("bench-stdin".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let read = line.map_err(Failure::from);
            let read = read.and_then(|line| Ok(serde_json::from_str::<Told>(&line)?));
            if tell.send(read).is_err() {
                return;
            }
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Some(Told::Order(order)) = told.recv().await.transpose()? else {
            return Err("an order comes first".into());
        };
        let prepared = Prepared::new(&order)?;
        say(&Said::Listening(prepared.address()))?;
        let Some(Told::Addresses(addresses)) = told.recv().await.transpose()? else {
            return Err("addresses come second".into());
        };
        let member = Arc::new(prepared.start(&addresses).await?);
        say(&Said::Ready)?;
        while let Some(next) = told.recv().await.transpose()? {
            let said = match next {
                Told::Watch(keys) => {
                    let keys: Vec<ValidatorKey> = keys.into_iter().map(ValidatorKey).collect();
                    Said::ConvictedNs(member.convicted_ns(&keys).await?)
                }
                Told::Lie => Said::LiedNs(member.lied_ns().await),
                Told::Spent => Said::SpentNs(u64::try_from(processor_time().as_nanos())?),
                Told::Order(_) | Told::Addresses(_) => return Err("it runs already".into()),
            };
            say(&said)?;
        }
        super::carrier::set_ending(true);
        let member = Arc::into_inner(member).ok_or("somebody still holds the validator")?;
        Ok(tokio::task::spawn_blocking(move || member.validator.stop()).await??)
    })
}

/// A running process
pub struct Child {
    process: tokio::process::Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts one; killed where it is dropped
    pub fn start() -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("agree-validator").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a validator's process has no pipes".into());
        };
        Ok(Self { process, input: Some(input), output: BufReader::new(output).lines() })
    }

    /// Tells it something
    pub async fn tell(&mut self, told: &Told) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        let input = self.input.as_mut().ok_or("the process was told to end")?;
        Ok(input.write_all(&line).await?)
    }

    /// What it says next
    pub async fn hear(&mut self) -> Result<Said, Failure> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        let line = line.map_err(|_| "a validator's process does not answer")??;
        let line = line.ok_or("a validator's process has ended; its reason is above")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Tells it something and waits for the answer
    pub async fn ask(&mut self, told: &Told) -> Result<Said, Failure> {
        self.tell(told).await?;
        self.hear().await
    }

    /// Lets it end
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended
    pub async fn end(mut self) -> Result<(), Failure> {
        self.close();
        let Self { mut process, mut output, .. } = self;
        while output.next_line().await?.is_some() {}
        let status = process.wait().await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("a validator's process ended with {status}").into())
    }
}
