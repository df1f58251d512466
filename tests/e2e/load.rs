//! A steady load on a URL, and its report.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The results of the requests.
#[derive(Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) sent: u32,
    /// The time since the start, and the error.
    pub(crate) failed: Vec<String>,
    /// The durations of the successful requests, sorted.
    pub(crate) times: Vec<Duration>,
}

impl LoadReport {
    /// Returns the duration that this percentage of the requests did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.times[(self.times.len() - 1) * percent / 100]
    }

    /// Asserts that enough requests were sent and all were answered with 200.
    pub(crate) fn assert_clean(&self, at_least: u32) {
        assert!(
            self.failed.is_empty(),
            "{} of {} failed: {:#?}",
            self.failed.len(),
            self.sent,
            &self.failed[..self.failed.len().min(20)]
        );
        assert!(self.sent >= at_least, "only {} requests were sent", self.sent);
    }
}

/// A running load.
pub(crate) struct SteadyLoad {
    stop: CancellationToken,
    driver: JoinHandle<()>,
    requests: TaskTracker,
    tally: Arc<Mutex<LoadReport>>,
}

impl SteadyLoad {
    /// Starts sending so many requests a second, at a fixed rate however long each takes. Every other request
    /// uses a new connection, the others kept ones.
    pub(crate) fn start(url: String, host: Option<&str>, per_second: u64) -> Self {
        let client = |idle| {
            let builder = reqwest::Client::builder().pool_max_idle_per_host(idle);
            builder.timeout(Duration::from_secs(30)).build().unwrap()
        };
        let clients = [client(usize::MAX), client(0)];
        let (stop, requests) = (CancellationToken::new(), TaskTracker::new());
        let tally = Arc::new(Mutex::new(LoadReport::default()));
        let host = host.map(str::to_owned);
        let driver = tokio::spawn({
            let (stop, requests, tally) = (stop.clone(), requests.clone(), Arc::clone(&tally));
            async move {
                let began = Instant::now();
                let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
                for number in 0usize.. {
                    tokio::select! {
                        _ = ticks.tick() => {}
                        () = stop.cancelled() => return,
                    }
                    let mut request = clients[number % 2].get(&url);
                    if let Some(host) = &host {
                        request = request.header("host", host);
                    }
                    let tally = Arc::clone(&tally);
                    requests.spawn(async move {
                        let at = Instant::now();
                        let result = ask(request).await;
                        let mut tally = tally.lock().unwrap();
                        tally.sent += 1;
                        match result {
                            Ok(()) => tally.times.push(at.elapsed()),
                            Err(why) => tally.failed.push(format!(
                                "sent at {:.2} s, failed after {:.2} s ({}): {why}",
                                (at - began).as_secs_f64(),
                                at.elapsed().as_secs_f64(),
                                if number % 2 == 0 {
                                    "kept connection"
                                } else {
                                    "own connection"
                                },
                            )),
                        }
                    });
                }
            }
        });
        Self {
            stop,
            driver,
            requests,
            tally,
        }
    }

    /// Returns the number of requests answered so far, successful or not.
    pub(crate) fn sent(&self) -> u32 {
        self.tally.lock().unwrap().sent
    }

    /// Ends the load and waits for the last responses.
    pub(crate) async fn end(self) -> LoadReport {
        self.stop.cancel();
        self.driver.await.unwrap();
        self.requests.close();
        self.requests.wait().await;
        let mut tally = std::mem::take(&mut *self.tally.lock().unwrap());
        tally.times.sort();
        tally
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Result<(), String> {
    let chain = |error: reqwest::Error| {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        text
    };
    let answer = request.send().await.map_err(chain)?;
    let status = answer.status();
    let text = answer.text().await.map_err(chain)?;
    match status.as_u16() {
        200 => Ok(()),
        status => {
            let text: String = text.chars().filter(|c| *c != '\n').take(300).collect();
            Err(format!("status {status}: {text}"))
        }
    }
}
