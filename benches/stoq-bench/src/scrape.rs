//! Renders the product's metrics page again and again while a load runs, as a scraper would make the daemon
//! do: what reading the counters costs. The counters themselves are part of every run; the page goes nowhere.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stoq::{Endpoint, WorkerCounters};
use stoq_admin::{MetricsError, NodeGauges, render_metrics};

use crate::command_line::TuningArgs;
use crate::render::warn;

/// A thread that renders; dropped, it ends
pub struct Scraper {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<u64, MetricsError>>>,
}

impl Scraper {
    /// Starts where the options ask for it
    ///
    /// # Errors
    /// Where the thread cannot be made.
    pub fn start_if_asked(
        endpoint: &Endpoint,
        tuning: &TuningArgs,
    ) -> std::io::Result<Option<Self>> {
        let every = tuning.render_metrics_every;
        every.map(|every| Self::start(endpoint.counters().to_vec(), every)).transpose()
    }

    fn start(workers: Vec<Arc<WorkerCounters>>, every: Duration) -> std::io::Result<Self> {
        let (end, ended) = channel::<()>();
        let thread = std::thread::Builder::new().name("bench-scrape".into()).spawn(move || {
            let node = NodeGauges { ready: true, ..NodeGauges::default() };
            let mut pages = 0;
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                std::hint::black_box(render_metrics(&node, &workers)?);
                pages += 1;
            }
            Ok(pages)
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }

    /// Ends it; how many pages were rendered
    fn end(&mut self) -> Result<u64, String> {
        drop(self.end.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(Ok(pages))) => Ok(pages),
            Some(Ok(Err(error))) => Err(error.to_string()),
            Some(Err(_)) => Err("the thread that rendered metrics panicked".to_owned()),
        }
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            warn(&format!("metrics were not rendered to the end: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn pages_are_rendered_until_the_end() {
        let workers = vec![Arc::new(WorkerCounters::default())];
        let start = Instant::now();
        let mut scraper = Scraper::start(workers, Duration::from_millis(1)).unwrap();
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let pages = scraper.end().unwrap();
        assert!((1..=100).contains(&pages), "{pages}");
        assert_eq!(scraper.end(), Ok(0));
    }
}
