//! Keeping a peer connected that we dial: one control lane, two lanes for large packages.

use std::sync::Arc;
use std::time::Duration;

use passerelle_host::jitter;
use passerelle_proto::Hop;
use passerelle_proto::v1::{Frame, Lane};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dial::{Carry, Dial};
use crate::driver::{FRAMES_IN_FLIGHT, SessionError, run_session};
use crate::exchange::Exchange;
use crate::peer::Transport;

/// Lanes for large packages that we open.
const BULK_LANES: usize = 2;
/// Wait before the first reconnect.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
/// Longest wait between attempts within the first minute: a restarted peer is found at once.
const RECONNECT_SOON_MAX: Duration = Duration::from_secs(1);
/// How long a peer is looked for eagerly.
const SOON: Duration = Duration::from_secs(60);
/// How long the other lanes may take to say why the peer ends the connection.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
/// How long the transport may take to say why it is gone, after a stream that broke with it.
const CLOSED_MAX: Duration = Duration::from_millis(50);
/// Longest wait between attempts later.
const RECONNECT_MAX: Duration = Duration::from_secs(300);

/// What a link says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkStatus {
    /// How it is connected; `None` while it is not.
    pub transport: Option<Transport>,
    /// Address of the peer, while connected.
    pub address: String,
    /// "connecting", "connected", "waiting": in words.
    pub state: &'static str,
    /// What went wrong last; empty when nothing did.
    pub last_error: String,
    /// Since when it is connected, or is not; `None` before the first attempt.
    pub since: Option<Instant>,
    /// Attempts in vain since it was connected last.
    pub failures: u32,
}

/// A peer that is kept connected.
pub struct Link {
    status: watch::Receiver<LinkStatus>,
    wake: Arc<Notify>,
}

impl Link {
    /// Dials `hop` and runs lanes over the connection until `stop`, again and again.
    ///
    /// The future is to be spawned; the link tells its status.
    pub fn maintain<D: Dial>(
        dialer: D,
        hop: Hop,
        exchange: Arc<dyn Exchange>,
        stop: CancellationToken,
        on_connected: impl Fn(D::Connection) + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, status) = watch::channel(LinkStatus {
            state: "connecting",
            ..LinkStatus::default()
        });
        let wake = Arc::new(Notify::new());
        let keeper = Keeper {
            wake: wake.clone(),
            dialer,
            hop,
            exchange,
            stop,
            status: sender,
        };
        (Self { status, wake }, keeper.run(on_connected))
    }

    /// Dials at once instead of waiting any longer: the peer is known to be there again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Follows the status.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }
}

struct Keeper<D> {
    wake: Arc<Notify>,
    dialer: D,
    hop: Hop,
    exchange: Arc<dyn Exchange>,
    stop: CancellationToken,
    status: watch::Sender<LinkStatus>,
}

impl<D: Dial> Keeper<D> {
    async fn run(self, on_connected: impl Fn(D::Connection) + Send + Sync + 'static) {
        let mut failures = 0_u32;
        let mut lost = Instant::now();
        while !self.stop.is_cancelled() {
            let dialled = tokio::select! {
                biased;
                dialled = self.dialer.dial(&self.hop) => dialled,
                () = self.stop.cancelled() => return,
            };
            match dialled {
                Ok(connection) => {
                    let peer = connection.peer().clone();
                    tracing::info!(%peer, "connected");
                    self.status.send_replace(LinkStatus {
                        transport: Some(peer.transport),
                        address: peer.address.to_string(),
                        state: "connected",
                        last_error: String::new(),
                        since: Some(Instant::now()),
                        failures: 0,
                    });
                    on_connected(connection.clone());
                    let why = self.lanes(connection).await;
                    tracing::info!(%peer, %why, "the connection has ended");
                    failures = 0;
                    lost = Instant::now();
                    self.lost("connecting", failures, why);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        tracing::warn!(peer = %self.hop, %error, "not reached");
                    }
                    self.lost("waiting to dial again", failures, error.to_string());
                }
            }
            let wait = reconnect_wait(failures, lost.elapsed(), jitter());
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => lost = Instant::now(),
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn lost(&self, state: &'static str, failures: u32, why: String) {
        self.status.send_modify(|status| {
            if status.transport.take().is_some() || status.since.is_none() {
                status.since = Some(Instant::now());
            }
            status.address.clear();
            status.state = state;
            status.last_error = why;
            status.failures = failures;
        });
    }

    /// Runs all lanes; when one of them breaks, all end.
    async fn lanes(&self, mut connection: D::Connection) -> String {
        let stop = self.stop.child_token();
        let mut lanes = JoinSet::new();
        for number in 0..=BULK_LANES {
            let lane = if number == 0 {
                Lane::Control
            } else {
                Lane::Bulk
            };
            let (connection, exchange) = (connection.clone(), self.exchange.clone());
            lanes.spawn(open_lane(connection, lane, exchange, stop.clone()));
        }
        let why = tokio::select! {
            biased;
            ended = lanes.join_next() => ended.map_or(Why::default(), why),
            why = connection.closed() => Why::Broken(why),
        };
        let why = match why {
            Why::Told(why) => why,
            Why::Broken(why) => {
                let told = tokio::time::timeout(LAST_WORDS_MAX, last_words(&mut lanes)).await;
                match told.ok().flatten() {
                    Some(told) => told,
                    None => {
                        let closed = tokio::time::timeout(CLOSED_MAX, connection.closed());
                        closed.await.unwrap_or(why)
                    }
                }
            }
        };
        if self.stop.is_cancelled() {
            // In order: what is open is finished; whoever stops us has set the time limit.
            while lanes.join_next().await.is_some() {}
        }
        lanes.shutdown().await;
        connection.close();
        why
    }
}

type LaneResult = Result<Result<(), SessionError>, JoinError>;

/// Why a lane has ended.
enum Why {
    /// The peer has said so.
    Told(String),
    /// It broke, as far as is known on this side.
    Broken(String),
}

impl Default for Why {
    fn default() -> Self {
        Self::Broken("all lanes have ended".to_owned())
    }
}

fn why(ended: LaneResult) -> Why {
    match ended {
        Ok(Err(error @ SessionError::Ended(_))) => Why::Told(error.to_string()),
        Ok(Err(error)) => Why::Broken(error.to_string()),
        Ok(Ok(())) | Err(_) => Why::default(),
    }
}

/// What the peer says on any lane that is ending.
async fn last_words(lanes: &mut JoinSet<Result<(), SessionError>>) -> Option<String> {
    while let Some(ended) = lanes.join_next().await {
        if let Why::Told(told) = why(ended) {
            return Some(told);
        }
    }
    None
}

async fn open_lane(
    connection: impl Carry,
    lane: Lane,
    exchange: Arc<dyn Exchange>,
    stop: CancellationToken,
) -> Result<(), SessionError> {
    let (sender, receiver) = mpsc::channel::<Frame>(FRAMES_IN_FLIGHT);
    let inbound = connection.lane(lane, receiver).await?;
    let peer = connection.peer().clone();
    run_session(inbound, sender, peer, lane, exchange, stop).await
}

/// Between attempts: quick at first, at most a second in the first minute, then backing off with
/// jitter.
fn reconnect_wait(failures: u32, lost_for: Duration, jitter: f64) -> Duration {
    let doubled = RECONNECT_FIRST.saturating_mul(1 << failures.min(11));
    match lost_for < SOON {
        true => doubled.min(RECONNECT_SOON_MAX),
        false => doubled.min(RECONNECT_MAX).mul_f64(0.5 + jitter / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_peer_is_found_within_a_second_and_a_dead_one_is_left_in_peace() {
        assert_eq!(reconnect_wait(0, Duration::ZERO, 1.0), RECONNECT_FIRST);
        assert_eq!(
            reconnect_wait(30, Duration::from_secs(59), 1.0),
            RECONNECT_SOON_MAX
        );
        assert_eq!(reconnect_wait(30, SOON, 1.0), RECONNECT_MAX);
        assert_eq!(reconnect_wait(30, SOON, 0.0), RECONNECT_MAX / 2);
    }
}
