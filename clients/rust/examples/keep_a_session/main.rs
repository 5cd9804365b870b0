//! Keep a session as a trading service does: open it under its own client id, renew its lease, follow
//! it over every outage, take it up again after a restart of this program, and close it on Ctrl-C.
//!
//! ```sh
//! cargo run --example keep_a_session -- 127.0.0.1:50051 session.kept
//! ```
//!
//! Copy what you need: `watch` with `continuity` and `backoff` is a watch that resumes and proves that
//! it is complete, `follow` follows one session until it has ended, `lease` renews, `repeat` tries again
//! where that is safe, `kept` is the file.

mod backoff;
mod continuity;
mod follow;
mod kept;
mod lease;
mod repeat;
mod watch;

use std::error::Error;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use ibgateway_client::v1::session_service_client::SessionServiceClient;
use ibgateway_client::v1::{ClientIdPolicy, CloseSessionRequest, OpenSessionRequest, Session};
use ibgateway_client::{
    Access, BrokerError, CLOSE_TIMEOUT, ErrorKind, Link, OPEN_TIMEOUT, call, connect, prost_types,
};
use tokio::signal::ctrl_c;
use tokio::task::JoinSet;

use crate::continuity::is_final;
use crate::follow::{follow, name};
use crate::kept::Kept;
use crate::repeat::repeat;

/// So long the session outlives a program that has died.
const LEASE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let path = arguments.next().unwrap_or_else(|| "session.kept".to_owned());
    match run(&address, Path::new(&path)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            if let Some(error) = error.downcast_ref::<BrokerError>() {
                eprintln!("who acts: {}", who_acts(error));
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let sessions = connect(address, Access::new().owner("example"))?.sessions();
    let mut kept = Kept::load(path)?;
    let mut interrupted = pin!(ctrl_c());
    let session = tokio::select! {
        opened = open(&sessions, &mut kept) => opened?,
        // The open is cancelled with this: the session ends, CALLER_GONE.
        _ = &mut interrupted => return Ok(()),
    };
    let id = &session.session_id;
    println!("{}: session {id}, client id {}", name(session.state()), session.client_id);

    // A task of its own; it ends with this function.
    let mut tasks = JoinSet::new();
    let ttl = lease::granted(&session).unwrap_or(LEASE);
    tasks.spawn(lease::keep(sessions.clone(), id.clone(), ttl));

    tokio::select! {
        ended = follow(&sessions, id, &mut kept) => return over(&mut kept, ended?),
        Some(ended) = tasks.join_next() => return over(&mut kept, ended?),
        _ = &mut interrupted => {}
    }
    let closed = repeat(CLOSE_TIMEOUT, async |left| {
        let request =
            CloseSessionRequest { session_id: id.clone(), reason: "the program ends".to_owned() };
        call(request, left, async |it| sessions.clone().close_session(it).await).await
    });
    let closed = tokio::select! {
        closed = closed => closed?,
        _ = ctrl_c() => return Err("not closed: the session ends with its lease".into()),
    };
    println!("closed: {}", name(closed.session.unwrap_or_default().state()));
    kept.forget()?;
    Ok(())
}

/// Open the session, or get that of the run before.
async fn open(
    sessions: &SessionServiceClient<Link>,
    kept: &mut Kept,
) -> Result<Session, Box<dyn Error>> {
    loop {
        // Before it is asked for: if this program dies now, the next run gets the same session.
        kept.save()?;
        let request = OpenSessionRequest {
            client_id: Some(14),
            client_id_policy: ClientIdPolicy::Exact.into(), // orders belong to the id
            request_id: kept.request_id.clone(),
            lease_ttl: Some(prost_types::Duration::try_from(LEASE)?),
            labels: [("desk".to_owned(), "fx".to_owned())].into(),
            ..Default::default()
        };
        let opened = repeat(OPEN_TIMEOUT, async |left| {
            call(request.clone(), left, async |it| sessions.clone().open_session(it).await).await
        })
        .await;
        match opened {
            Ok(answer) => {
                let session = answer.session.unwrap_or_default();
                if !is_final(session.state) {
                    return Ok(session);
                }
                println!("the session of the run before has ended: {}", session.close_reason);
            }
            Err(error)
                if kept.is_used
                    && matches!(
                        error.kind(),
                        ErrorKind::SessionEnded | ErrorKind::RequestIdReused
                    ) =>
            {
                println!("the session of the run before is no longer ours: {error}");
            }
            Err(error) => return Err(error.into()),
        }
        kept.forget()?;
    }
}

/// Somebody else has ended the session: the next run opens another.
fn over(kept: &mut Kept, why: BrokerError) -> Result<(), Box<dyn Error>> {
    kept.forget()?;
    Err(why.into())
}

/// Who can do something about an error that no wait of this program has cured.
fn who_acts(error: &BrokerError) -> &'static str {
    match error.kind() {
        ErrorKind::ClientIdInUse => "whoever else has the client id",
        ErrorKind::Authentication | ErrorKind::IncompatibleVersion => "a human at the Gateway",
        ErrorKind::GatewayConnection
        | ErrorKind::GatewayTimeout
        | ErrorKind::NetworkUnreachable
        | ErrorKind::CircuitBreakerOpen => "the Gateway's operator, if it is not restarting",
        ErrorKind::GatewayDraining => "the operator who drains the Gateway",
        ErrorKind::SessionLimit | ErrorKind::ClientIdsExhausted => "you: close something",
        ErrorKind::SessionEnded | ErrorKind::SessionNotFound => "you: open another session",
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
            "whoever gives out tokens and roles"
        }
        ErrorKind::InvalidArgument
        | ErrorKind::GatewayNotFound
        | ErrorKind::RequestIdReused
        | ErrorKind::SessionNotConnected => "you: this program has a bug",
        ErrorKind::BrokerUnreachable
        | ErrorKind::CallTimeout
        | ErrorKind::BrokerDraining
        | ErrorKind::StoreUnavailable => "whoever runs the broker",
        _ => "report it",
    }
}
