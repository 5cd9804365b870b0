//! A watch that outlives its streams.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ibgateway_client::tonic::{Code, Response, Status, Streaming};
use ibgateway_client::v1::session_service_client::SessionServiceClient;
use ibgateway_client::v1::{WatchSessionsRequest, WatchSessionsResponse};
use ibgateway_client::{BrokerError, ErrorKind, Link};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::continuity::{Continuity, WatchGap};

/// Three times the interval at which a broker says that nothing has happened: a stream that is quiet
/// for so long is dead, whatever TCP says.
pub const SILENCE: Duration = Duration::from_secs(30);
/// A stream must have lived so long to count as one that works.
const STEADY: Duration = Duration::from_secs(10);
/// A wait that is told though its cause was.
const LONG: Duration = Duration::from_secs(30);
/// A stream must have been open for so long to count as resumed, unless it says something: a broker
/// that cannot serve one says so right after it was opened.
const SETTLED: Duration = Duration::from_millis(500);
/// Whoever notices a silence so late was asleep itself, and has as long to read what came meanwhile.
const ASLEEP: Duration = Duration::from_secs(1);

type Messages = Streaming<WatchSessionsResponse>;
type Opening = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

/// What a watch tells.
#[derive(Debug)]
pub enum Item {
    /// A message of the broker. Keep its `resume_token` once it is handled.
    Told(Box<WatchSessionsResponse>),
    /// The stream is lost: nothing is known until it is resumed, by itself.
    Interrupted(BrokerError),
    /// It is open again; what was missed follows.
    Resumed,
}

/// Why a watch has ended.
#[derive(Debug)]
pub enum WatchError {
    /// Its stream is not complete.
    Gap(WatchGap),
    /// The same watch would be refused again, for ever.
    Refused(BrokerError),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap(gap) => gap.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WatchError {}

impl From<WatchGap> for WatchError {
    fn from(gap: WatchGap) -> Self {
        Self::Gap(gap)
    }
}

enum Stream {
    /// There is none; the next is opened at this time.
    Lost(Instant),
    /// It is asked for, until this time at the latest.
    Opening(Opening, Instant),
    /// It is open: since when, and until when it may be silent.
    Open(Box<Messages>, Instant, Instant),
}

/// Follows the sessions that match, over all of its streams: nothing is lost and nothing told twice,
/// but for events that are not persisted.
///
/// Reading ahead is left to HTTP/2's flow control: a watch that is not asked holds little, and is cut by
/// the broker once it lags far behind. To drop it ends its stream.
pub struct Watch {
    sessions: SessionServiceClient<Link>,
    request: WatchSessionsRequest,
    continuity: Continuity,
    silence: Duration,
    backoff: Backoff,
    stream: Stream,
    /// Why there is no stream now, or none that has proved to work.
    lost: Option<BrokerError>,
    /// Read already, but not told: `Resumed` comes before it.
    held: Option<Box<WatchSessionsResponse>>,
    /// Whether there was a silence that may have been this program's sleep, and nothing since.
    has_slept: bool,
}

impl Watch {
    /// A watch that begins as the request says: without a `resume_token`, with a snapshot. Nothing is
    /// sent before the first item is asked for.
    pub fn new(
        sessions: SessionServiceClient<Link>,
        request: WatchSessionsRequest,
        silence: Duration,
    ) -> Self {
        Self {
            sessions,
            continuity: Continuity::new(&request),
            request,
            silence,
            backoff: Backoff::new(),
            stream: Stream::Lost(Instant::now()),
            lost: None,
            held: None,
            has_slept: false,
        }
    }

    /// The next item, for as long as it takes.
    ///
    /// # Errors
    ///
    /// The stream is not complete, or is refused for good: drop the watch.
    ///
    /// # Cancellation
    ///
    /// Is safe: no item is lost, and the stream stays. So it may stand in a `select!`.
    pub async fn next(&mut self) -> Result<Item, WatchError> {
        loop {
            if self.lost.is_none()
                && let Some(response) = self.held.take()
            {
                self.continuity.accept(&response)?;
                return Ok(Item::Told(response));
            }
            match self.step().await {
                Ok(response) => self.held = response,
                Err(error) => match self.lose(error)? {
                    Some(item) => return Ok(item),
                    None => continue,
                },
            }
            if matches!(self.stream, Stream::Open(..)) && self.lost.take().is_some() {
                return Ok(Item::Resumed);
            }
        }
    }

    /// One step of the stream: a message, or `None` if it is open again and quiet.
    async fn step(&mut self) -> Result<Option<Box<WatchSessionsResponse>>, BrokerError> {
        loop {
            match &mut self.stream {
                Stream::Lost(retry_at) => {
                    sleep_until(*retry_at).await;
                    self.open();
                }
                Stream::Opening(opening, until) => {
                    let opened = timeout_at(*until, opening).await;
                    let messages = opened.map_err(|_| silent(self.silence))??.into_inner();
                    let now = Instant::now();
                    self.stream = Stream::Open(Box::new(messages), now, now + self.silence);
                }
                Stream::Open(messages, since, until) => {
                    let settled = *since + SETTLED;
                    let is_settling = self.lost.is_some() && settled < *until;
                    let until_then = if is_settling { settled } else { *until };
                    let Ok(read) = timeout_at(until_then, messages.message()).await else {
                        if is_settling {
                            return Ok(None);
                        }
                        let now = Instant::now();
                        if self.has_slept || now - *until < ASLEEP {
                            return Err(silent(self.silence));
                        }
                        self.has_slept = true;
                        *until = now + ASLEEP;
                        continue;
                    };
                    self.has_slept = false;
                    let message = read?.ok_or_else(|| {
                        let said = "the broker has ended the stream";
                        BrokerError::new(ErrorKind::BrokerDraining, said)
                    })?;
                    *until = Instant::now() + self.silence;
                    return Ok(Some(Box::new(message)));
                }
            }
        }
    }

    fn open(&mut self) {
        self.continuity.begin();
        self.has_slept = false;
        let mut sessions = self.sessions.clone();
        let request = WatchSessionsRequest {
            resume_token: self.continuity.token().to_owned(),
            ..self.request.clone()
        };
        let opening = Box::pin(async move { sessions.watch_sessions(request).await });
        self.stream = Stream::Opening(opening, Instant::now() + self.silence);
    }

    /// The stream is lost: say so, unless that was said, and decide when to try again.
    fn lose(&mut self, error: BrokerError) -> Result<Option<Item>, WatchError> {
        let now = Instant::now();
        if matches!(&self.stream, Stream::Open(_, since, _) if now - *since > STEADY) {
            self.backoff.reset();
        }
        let wait = self.backoff.next(error.retry_after());
        self.stream = Stream::Lost(now + wait);
        if is_refusal(&error) {
            return Err(WatchError::Refused(error));
        }
        let is_told = wait <= LONG
            && self
                .lost
                .as_ref()
                .is_some_and(|lost| lost.kind() == error.kind() && lost.reason() == error.reason());
        self.lost = Some(error.clone());
        Ok((!is_told).then_some(Item::Interrupted(error)))
    }
}

fn silent(silence: Duration) -> BrokerError {
    let said = format!("the broker has sent nothing for {} s", silence.as_secs_f64());
    BrokerError::new(ErrorKind::BrokerUnreachable, said)
}

/// Whether the same watch would be refused again, for ever.
fn is_refusal(error: &BrokerError) -> bool {
    match error.kind() {
        ErrorKind::InvalidArgument
        | ErrorKind::GatewayNotFound
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied => true,
        ErrorKind::UnexpectedAnswer => matches!(
            error.code(),
            Code::Unimplemented
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::NotFound
        ),
        _ => false,
    }
}
