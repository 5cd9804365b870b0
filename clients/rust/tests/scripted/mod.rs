//! A peer over TCP that answers as a test says. It speaks HTTP/2 and the framing of gRPC, so that it can
//! also do what no gRPC server does; it is no broker.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use ibgateway_client::v1::watch_sessions_response::Message as Told;
use ibgateway_client::v1::{Bookmark, ConnectionFailure, Session, WatchSessionsResponse};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost_types::Any;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic_types::pb::{BadRequest, ErrorInfo, RetryInfo, Status, bad_request::FieldViolation};

pub const DOMAIN: &str = "ibgateway.broker.v1";

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// The response's headers.
    Open,
    /// A message.
    Send(Vec<u8>),
    /// A message whose frame breaks off in the middle.
    SendHalf,
    Wait(Duration),
    /// Nothing more, until the caller cancels.
    Hang,
    /// The stream is reset.
    Reset(h2::Reason),
    /// The connection ends.
    Cut,
    /// A status, with what is packed into it.
    End(Refusal),
}

/// The end of an answer, as the broker packs it.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    pub code: i32,
    pub message: String,
    pub details: Vec<u8>,
    /// Sent as it is instead of the details, unless it is empty.
    pub undecodable: &'static str,
    pub correlation_id: String,
}

pub const OK: i32 = 0;
pub const UNAVAILABLE: i32 = 14;

impl Refusal {
    /// Without details, as a proxy would send it.
    pub fn bare(code: i32, message: &str) -> Self {
        Self { code, message: message.to_owned(), ..Self::default() }
    }

    pub fn of(code: i32, reason: &str) -> Self {
        Self::packed(code, reason, DOMAIN, &[], None, &[], None)
    }

    pub fn packed(
        code: i32,
        reason: &str,
        domain: &str,
        metadata: &[(&str, &str)],
        retry: Option<prost_types::Duration>,
        violations: &[(&str, &str)],
        failure: Option<ConnectionFailure>,
    ) -> Self {
        let info = ErrorInfo {
            reason: reason.to_owned(),
            domain: domain.to_owned(),
            metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        if let Some(delay) = retry {
            let retry = RetryInfo { retry_delay: Some(delay) };
            details.push(any("google.rpc.RetryInfo", &retry));
        }
        if !violations.is_empty() {
            let field_violations = violations
                .iter()
                .map(|(field, description)| FieldViolation {
                    field: (*field).to_owned(),
                    description: (*description).to_owned(),
                    ..FieldViolation::default()
                })
                .collect();
            details.push(any("google.rpc.BadRequest", &BadRequest { field_violations }));
        }
        if let Some(failure) = failure {
            details.push(any("ibgateway.broker.v1.ConnectionFailure", &failure));
        }
        let status = Status { code, message: "refused".to_owned(), details };
        Self {
            code,
            message: "refused".to_owned(),
            details: status.encode_to_vec(),
            ..Self::default()
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", self.code.into());
        headers.insert("grpc-message", self.message.parse().unwrap());
        if !self.details.is_empty() {
            headers.insert("grpc-status-details-bin", base64(&self.details).parse().unwrap());
        }
        if !self.undecodable.is_empty() {
            headers.insert("grpc-status-details-bin", self.undecodable.parse().unwrap());
        }
        if !self.correlation_id.is_empty() {
            headers.insert("x-correlation-id", self.correlation_id.parse().unwrap());
        }
        headers
    }
}

pub fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(DIGITS[bits >> (18 - 6 * place) & 63]));
        }
    }
    text
}

/// An answer of one message.
pub fn answer(message: &impl Message) -> Vec<Step> {
    vec![Step::Open, Step::Send(message.encode_to_vec()), Step::End(Refusal::default())]
}

pub fn session(sequence: i64) -> Session {
    Session { session_id: "one".to_owned(), sequence, state: 3, ..Session::default() }
}

pub fn told(token: &str, revision: i64, message: Told) -> Step {
    let response =
        WatchSessionsResponse { resume_token: token.to_owned(), revision, message: Some(message) };
    Step::Send(response.encode_to_vec())
}

pub fn bookmark(token: &str, revision: i64) -> Step {
    told(token, revision, Told::Bookmark(Bookmark::default()))
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub rpc: String,
    pub headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    pub fn header(&self, key: &str) -> Option<&str> {
        self.headers.get(key).and_then(|it| it.to_str().ok())
    }

    pub fn message<T: Message + Default>(&self) -> T {
        T::decode(&self.body[5..]).unwrap()
    }
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Vec<Vec<Step>>>>,
    asked: Mutex<Vec<Asked>>,
    /// Streams that a caller has cancelled, and those that are under way.
    cancelled: AtomicUsize,
    open: AtomicUsize,
}

/// Listens on loopback until it is dropped.
pub struct Scripted {
    pub address: String,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Scripted {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, state.clone()));
        Self { address, state, _tasks: tasks }
    }

    /// Answer an rpc, one answer after the other; the last one again and again.
    pub fn on(&self, rpc: &str, answers: impl IntoIterator<Item = Vec<Step>>) {
        let mut reversed: Vec<_> = answers.into_iter().collect();
        reversed.reverse();
        self.state.answers.lock().unwrap().insert(rpc.to_owned(), reversed);
    }

    /// The requests that came so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

/// Wait until something is so, for 30 s at least.
pub async fn eventually(what: &str, check: impl Fn() -> bool) {
    for _ in 0..3000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never was so: {what}");
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(serve(socket, state.clone()));
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    // Of this one alone: others may not have noticed yet that their callers have gone.
    let cut = Arc::new(Notify::new());
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = cut.notified() => return,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        streams.spawn(handle(request, respond, state.clone(), cut.clone()));
    }
}

async fn handle(
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
    state: Arc<State>,
    cut: Arc<Notify>,
) {
    let mut under_way = UnderWay::new(state.clone());
    let rpc = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let headers = request.headers().clone();
    let mut incoming = request.into_body();
    let mut body = BytesMut::new();
    while let Some(Ok(part)) = incoming.data().await {
        body.put(part);
    }
    let steps = {
        let mut answers = state.answers.lock().unwrap();
        let left = answers.get_mut(&rpc).unwrap_or_else(|| panic!("{rpc} was not expected"));
        if left.len() > 1 { left.pop().unwrap() } else { left[0].clone() }
    };
    state.asked.lock().unwrap().push(Asked { rpc, headers, body: body.freeze() });
    under_way.is_cancelled = recite(steps, respond, &cut).await;
}

/// A stream; whose connection has gone is cancelled, too.
struct UnderWay {
    state: Arc<State>,
    is_cancelled: bool,
}

impl UnderWay {
    fn new(state: Arc<State>) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self { state, is_cancelled: true }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Ordering::SeqCst);
        self.state.cancelled.fetch_add(usize::from(self.is_cancelled), Ordering::SeqCst);
    }
}

/// Whether the caller has cancelled.
async fn recite(steps: Vec<Step>, mut respond: SendResponse<Bytes>, cut: &Notify) -> bool {
    let mut stream = None;
    for step in steps {
        match (step, &mut stream) {
            (Step::Open, _) => {
                let head = Response::builder().header("content-type", "application/grpc");
                stream = respond.send_response(head.body(()).unwrap(), false).ok();
            }
            (Step::Send(message), Some(stream)) => {
                let mut frame = BytesMut::new();
                frame.put_u8(0);
                frame.put_u32(u32::try_from(message.len()).unwrap());
                frame.put_slice(&message);
                let _ = stream.send_data(frame.freeze(), false);
            }
            (Step::SendHalf, Some(stream)) => {
                let _ = stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false);
            }
            (Step::Wait(pause), _) => tokio::time::sleep(pause).await,
            (Step::Hang, Some(stream)) => {
                let _ = poll_fn(|context| stream.poll_reset(context)).await;
                return true;
            }
            (Step::Hang, None) => {
                let _ = poll_fn(|context| respond.poll_reset(context)).await;
                return true;
            }
            (Step::Reset(reason), Some(stream)) => stream.send_reset(reason),
            (Step::Reset(reason), None) => respond.send_reset(reason),
            (Step::Cut, _) => cut.notify_one(),
            (Step::End(refusal), Some(stream)) => {
                let _ = stream.send_trailers(refusal.headers());
            }
            (Step::End(refusal), None) => {
                let mut head = Response::builder().header("content-type", "application/grpc");
                head.headers_mut().unwrap().extend(refusal.headers());
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
            (Step::Send(_) | Step::SendHalf, None) => panic!("Open comes first"),
        }
    }
    false
}
