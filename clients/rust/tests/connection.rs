//! What is sent, to whom, and what comes of a peer that does not answer as it should.

mod scripted;

use std::time::{Duration, Instant};

use ibgateway_client::v1::{GetSessionRequest, GetSessionResponse, WatchSessionsRequest};
use ibgateway_client::{
    Access, BrokerError, ConnectError, ErrorKind, TIMEOUT, call, connect, uuid4,
};
use scripted::{OK, Refusal, Scripted, Step, answer, eventually, session};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// A certificate authority, for nobody.
const AUTHORITY: &str = include_str!("authority.pem");

async fn get(address: &str, timeout: Duration) -> Result<GetSessionResponse, BrokerError> {
    let mut sessions = connect(address, Access::new()).unwrap().sessions();
    let request = GetSessionRequest { session_id: "one".to_owned() };
    call(request, timeout, async |it| sessions.get_session(it).await).await
}

#[tokio::test]
async fn each_call_says_who_calls_and_has_an_id_and_a_deadline_of_its_own() {
    let server = Scripted::start().await;
    server.on("GetSession", [answer(&GetSessionResponse { session: Some(session(1)) })]);
    let access = Access::new().owner("momentum").token("secret");
    let mut sessions = connect(&server.address, access).unwrap().sessions();
    for _ in 0..2 {
        let request = GetSessionRequest { session_id: "one".to_owned() };
        let got = call(request, TIMEOUT, async |it| sessions.get_session(it).await).await.unwrap();
        assert_eq!(got.session, Some(session(1)));
    }
    let asked = server.asked();
    assert_eq!(asked[0].message::<GetSessionRequest>().session_id, "one");
    assert_eq!(asked[0].header("x-broker-owner"), Some("momentum"));
    assert_eq!(asked[0].header("authorization"), Some("Bearer secret"));
    assert!(asked[0].header("user-agent").unwrap().starts_with("ibgateway-client/"));
    assert!(asked[0].header("grpc-timeout").is_some());
    let ids: Vec<_> = asked.iter().map(|it| it.header("x-correlation-id").unwrap()).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!((ids[0].len(), ids[0].as_bytes()[14]), (36, b'4'));
}

#[tokio::test]
async fn a_bare_call_has_an_id_too_and_no_name_unless_one_is_given() {
    let server = Scripted::start().await;
    server.on("GetSession", [answer(&GetSessionResponse::default())]);
    let mut sessions = connect(&server.address, Access::new()).unwrap().sessions();
    sessions.get_session(GetSessionRequest::default()).await.unwrap();
    let asked = &server.asked()[0];
    assert!(asked.header("x-correlation-id").is_some());
    assert!(asked.header("x-broker-owner").is_none() && asked.header("authorization").is_none());
}

#[tokio::test]
async fn a_token_goes_over_tls_or_to_this_machine_and_never_elsewhere() {
    let with_token = |address: &str| connect(address, Access::new().token("secret"));
    for address in ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "LOCALHOST.:1", "[::1]:1"] {
        assert!(with_token(address).is_ok(), "{address}");
    }
    for address in
        ["broker.example.net:1", "10.0.0.1:1", "[2001:db8::1]:1", "localhost.example.net:1"]
    {
        let refused = with_token(address).unwrap_err();
        assert!(matches!(refused, ConnectError::PlainText(_)), "{address}: {refused}");
        assert!(connect(address, Access::new().owner("momentum")).is_ok());
    }
}

#[tokio::test]
async fn nothing_that_is_secret_is_ever_shown() {
    let access = Access::new().token("secret").identity("certificate", "private");
    let shown = format!("{access:?}");
    assert!(!shown.contains("secret") && !shown.contains("private"), "{shown}");
    let broker = connect("127.0.0.1:1", Access::new().token("secret")).unwrap();
    assert!(!format!("{broker:?} {:?}", broker.sessions()).contains("secret"));
    let refused = connect("127.0.0.1:1", Access::new().token("se cret")).unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("cret"));
}

#[tokio::test]
async fn what_can_be_no_address_owner_token_or_certificate_is_refused() {
    for address in [
        "",
        "nonsense",
        ":50051",
        "host:",
        "host:99999",
        "http://host:1",
        "me@host:1",
        "a b:1",
        "h:1/path",
        "h:1?x",
    ] {
        let refused = connect(address, Access::new()).unwrap_err();
        assert!(matches!(refused, ConnectError::Address(_)), "{address}: {refused}");
    }
    for owner in ["", "müller", "a\nb"] {
        let refused = connect("127.0.0.1:1", Access::new().owner(owner)).unwrap_err();
        assert!(matches!(refused, ConnectError::Owner(_)), "{owner}: {refused}");
    }
    for token in ["", "se cret", "secret\n", "größe"] {
        let refused = connect("127.0.0.1:1", Access::new().token(token)).unwrap_err();
        assert!(matches!(refused, ConnectError::Token), "{refused}");
    }
    for access in [
        Access::new().ca("nonsense"),
        Access::new().ca(""),
        Access::new().ca(AUTHORITY).identity("certificate", "key"),
        Access::new().identity("certificate", "key"),
    ] {
        let refused = connect("127.0.0.1:1", access).unwrap_err();
        assert!(matches!(refused, ConnectError::Tls(_)), "{refused}");
    }
}

#[tokio::test]
async fn the_error_has_the_id_of_the_answer_or_that_which_was_sent() {
    let server = Scripted::start().await;
    let mut refusal = Refusal::of(5, "SESSION_NOT_FOUND");
    server.on("GetSession", [vec![Step::End(refusal.clone())]]);
    let error = get(&server.address, TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionNotFound);
    assert_eq!(Some(error.correlation_id()), server.asked()[0].header("x-correlation-id"));

    refusal.correlation_id = "answered".to_owned();
    server.on("GetSession", [vec![Step::Open, Step::End(refusal)]]);
    assert_eq!(get(&server.address, TIMEOUT).await.unwrap_err().correlation_id(), "answered");
}

#[tokio::test]
async fn a_call_ends_in_time_wherever_the_answer_stalls() {
    let server = Scripted::start().await;
    // Behind a connection, behind the headers, in the middle of a message.
    let stalls = [
        vec![Step::Hang],
        vec![Step::Open, Step::Hang],
        vec![Step::Open, Step::SendHalf, Step::Hang],
    ];
    for stall in stalls.clone() {
        server.on("GetSession", [stall]);
        let began = Instant::now();
        let error = get(&server.address, Duration::from_nanos(1_499_999_999)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CallTimeout, "{error}");
        assert!(error.message().ends_with("within 1.5 s"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    eventually("each was cancelled", || server.cancelled() == stalls.len()).await;
    // Somebody who accepts and says nothing at all.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let error = get(&address, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallTimeout);
}

#[tokio::test]
async fn times_of_any_length_are_taken() {
    let server = Scripted::start().await;
    server.on("GetSession", [answer(&GetSessionResponse::default())]);
    assert!(get(&server.address, Duration::MAX).await.is_ok());
    let error = get(&server.address, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallTimeout);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let server = Scripted::start().await;
    server.on("GetSession", [vec![Step::Hang]]);
    // The connection itself stays: it is the call that ends.
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let mut asking = sessions.clone();
    let task = tokio::spawn(async move {
        let request = GetSessionRequest::default();
        call(request, TIMEOUT, async |it| asking.get_session(it).await).await
    });
    eventually("it is asked", || !server.asked().is_empty()).await;
    task.abort();
    eventually("it is cancelled", || server.cancelled() == 1).await;
    eventually("nothing is left", || server.open() == 0).await;
    drop(sessions);
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled() {
    let server = Scripted::start().await;
    server.on("WatchSessions", [vec![Step::Open, Step::Hang]]);
    let mut sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let stream = sessions.watch_sessions(WatchSessionsRequest::default()).await.unwrap();
    assert_eq!((server.open(), server.cancelled()), (1, 0));
    drop(stream);
    eventually("it is cancelled", || server.cancelled() == 1).await;
}

#[tokio::test]
async fn watches_that_are_not_read_hold_up_no_call() {
    let server = Scripted::start().await;
    let mut busy = vec![Step::Open];
    busy.extend((0..16).map(|_| Step::Send(vec![0; 64 * 1024])));
    busy.push(Step::Hang);
    server.on("WatchSessions", [busy]);
    server.on("GetSession", [answer(&GetSessionResponse { session: Some(session(1)) })]);
    let mut sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(sessions.watch_sessions(WatchSessionsRequest::default()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await; // they fill what they may
    let request = GetSessionRequest { session_id: "one".to_owned() };
    let got = call(request, TIMEOUT, async |it| sessions.get_session(it).await).await.unwrap();
    assert_eq!(got.session, Some(session(1)));
}

#[tokio::test]
async fn whoever_does_not_speak_as_a_broker_does_is_no_broker() {
    let server = Scripted::start().await;
    let unreachable = [
        vec![Step::Reset(h2::Reason::INTERNAL_ERROR)],
        vec![Step::Reset(h2::Reason::REFUSED_STREAM)],
        vec![Step::Reset(h2::Reason::ENHANCE_YOUR_CALM)],
        vec![Step::Open, Step::Reset(h2::Reason::CANCEL)],
        vec![Step::Open, Step::SendHalf, Step::Cut, Step::Hang],
        vec![Step::Cut, Step::Hang],
        vec![Step::End(Refusal::bare(1, ""))],
        vec![Step::End(Refusal::bare(14, "busy"))],
    ];
    for script in unreachable {
        server.on("GetSession", [script.clone()]);
        let error = get(&server.address, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokerUnreachable, "{script:?}: {error}");
    }
    let unexpected = [
        vec![Step::End(Refusal::bare(12, "no such method"))],
        vec![Step::Open, Step::End(Refusal::bare(OK, ""))], // no message
        vec![Step::Open, Step::Send(vec![0xff; 3]), Step::End(Refusal::default())],
    ];
    for script in unexpected {
        server.on("GetSession", [script.clone()]);
        let error = get(&server.address, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedAnswer, "{script:?}: {error}");
    }
}

#[tokio::test]
async fn where_nobody_listens_or_somebody_else_does_there_is_no_broker() {
    let error = get("127.0.0.1:1", TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokerUnreachable);
    assert!(error.message().contains("Connection refused"), "{error}");

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let (mut socket, _) = other.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        socket
    });
    let error = get(&address, TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokerUnreachable, "{error}");
    task.await.unwrap();
}

#[tokio::test]
async fn whoever_accepts_and_does_not_speak_tls_is_given_up_soon() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let mut sessions = connect(&address, Access::new().ca(AUTHORITY)).unwrap().sessions();
    let request = GetSessionRequest::default();
    let long = Duration::from_secs(60);
    let error = call(request, long, async |it| sessions.get_session(it).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokerUnreachable, "{error}");
}

#[tokio::test]
async fn a_broker_that_is_back_is_found_by_the_same_stub() {
    let server = Scripted::start().await;
    let good = answer(&GetSessionResponse::default());
    server.on("GetSession", [good.clone(), vec![Step::Cut, Step::Hang], good]);
    let mut sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let mut ask = async || {
        let request = GetSessionRequest::default();
        call(request, TIMEOUT, async |it| sessions.get_session(it).await).await
    };
    assert!(ask().await.is_ok());
    assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::BrokerUnreachable);
    assert!(ask().await.is_ok());
}

#[test]
fn ids_are_of_version_4_and_differ() {
    let (one, other) = (uuid4(), uuid4());
    assert_ne!(one, other);
    assert!("89ab".contains(char::from(one.as_bytes()[19])), "{one}");
}

#[tokio::test]
async fn details_that_cannot_be_read_are_no_details_and_no_panic() {
    let server = Scripted::start().await;
    let broken = |undecodable| Refusal { undecodable, ..Refusal::bare(9, "said") };
    for undecodable in ["no base64!", "A", "=", "_-_-"] {
        let end = Step::End(broken(undecodable));
        let with_trailers = vec![Step::Open, end.clone()];
        server.on("GetSession", [vec![end], with_trailers.clone()]);
        for place in ["in the headers", "in the trailers"] {
            let error = get(&server.address, TIMEOUT).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedAnswer, "{undecodable} {place}");
            assert!(error.message().contains("FAILED_PRECONDITION: said"), "{error}");
        }
        server.on("WatchSessions", [with_trailers]);
        let mut sessions = connect(&server.address, Access::new()).unwrap().sessions();
        let request = WatchSessionsRequest::default();
        let mut watch = sessions.watch_sessions(request).await.unwrap().into_inner();
        let error = BrokerError::from(watch.message().await.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::UnexpectedAnswer);
    }
    let end = Refusal::of(14, "BROKER_DRAINING");
    server.on("GetSession", [vec![Step::Open, Step::End(end.clone())], vec![Step::End(end)]]);
    for _ in 0..2 {
        let error = get(&server.address, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokerDraining, "what can be read is: {error}");
    }
}
