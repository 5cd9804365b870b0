//! Each status that a call may end with, as an error.

mod scripted;

use std::time::Duration;

use ibgateway_client::tonic::{Code, Status};
use ibgateway_client::v1::{ConnectionFailure, ErrorReason};
use ibgateway_client::{BrokerError, ErrorKind};
use prost::Message;
use scripted::{DOMAIN, Refusal, any};
use tonic_types::pb::{ErrorInfo, Status as RichStatus};

fn read(refusal: Refusal) -> BrokerError {
    Status::with_details(Code::from_i32(refusal.code), refusal.message, refusal.details.into())
        .into()
}

fn bare(code: Code) -> BrokerError {
    Status::new(code, "said").into()
}

/// All reasons of the contract.
fn reasons() -> Vec<&'static str> {
    (1..100)
        .filter_map(|number| ErrorReason::try_from(number).ok())
        .map(|reason| reason.as_str_name().strip_prefix("ERROR_REASON_").unwrap())
        .collect()
}

#[test]
fn every_reason_of_the_contract_has_a_kind_of_its_own() {
    let mut kinds = std::collections::HashSet::new();
    assert_eq!(reasons().len(), 22);
    for reason in reasons() {
        let error = read(Refusal::of(9, reason));
        assert_ne!(error.kind(), ErrorKind::UnknownReason, "{reason}");
        assert_eq!(error.reason(), reason);
        assert_eq!(error.kind().reason(), reason);
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(kinds.insert(error.kind()), "{reason}");
    }
}

#[test]
fn the_six_codes_tell_what_the_broker_knows_of_the_failure() {
    let failure = ConnectionFailure {
        reason: "IB_CONN_002".into(),
        retryable: true,
        phase: "start_api".into(),
        tws_code: 326,
        message: "the id is in use".into(),
        hint: "close the other".into(),
        attempt: 3,
        ..ConnectionFailure::default()
    };
    let refusal =
        Refusal::packed(6, "IB_CONN_002", DOMAIN, &[("client_id", "7")], None, &[], Some(failure));
    let error = read(refusal);
    assert_eq!(error.kind(), ErrorKind::ClientIdInUse);
    assert!(error.kind().is_gateway() && error.is_retryable());
    assert_eq!(error.message(), "the id is in use");
    assert_eq!(error.hint(), "close the other");
    assert_eq!(error.metadata()["client_id"], "7");
    let known = error.failure().unwrap();
    assert_eq!((known.phase.as_str(), known.tws_code, known.attempt), ("start_api", 326, 3));
}

#[test]
fn one_of_the_six_without_its_failure_is_one_all_the_same() {
    let error = read(Refusal::of(14, "IB_CONN_001"));
    assert_eq!(error.kind(), ErrorKind::GatewayConnection);
    assert_eq!(error.failure().unwrap().reason, "IB_CONN_001");
    assert_eq!(error.message(), "refused");
    assert!(!error.is_retryable());
}

#[test]
fn a_failure_of_the_gateway_is_never_taken_for_silence_of_the_broker() {
    let error = read(Refusal::of(4, "IB_CONN_003"));
    assert_eq!((error.code(), error.kind()), (Code::DeadlineExceeded, ErrorKind::GatewayTimeout));
}

#[test]
fn all_violations_are_told() {
    let wrong = [("client_id", "must be between 1 and 9999"), ("labels", "too many")];
    let error = read(Refusal::packed(3, "INVALID_ARGUMENT", DOMAIN, &[], None, &wrong, None));
    let told: Vec<_> =
        error.violations().iter().map(|it| (it.field.as_str(), it.description.as_str())).collect();
    assert_eq!(told, wrong);
}

#[test]
fn the_broker_says_when_to_ask_again() {
    let after = |seconds, nanos| {
        let delay = prost_types::Duration { seconds, nanos };
        let refusal = Refusal::packed(14, "CIRCUIT_OPEN", DOMAIN, &[], Some(delay), &[], None);
        read(refusal).retry_after()
    };
    assert_eq!(after(1, 500_000_000), Some(Duration::from_millis(1500)));
    assert_eq!(after(0, 0), Some(Duration::ZERO));
    assert_eq!(after(-1, 0), None);
    assert_eq!(after(i64::MAX, 0), Some(Duration::from_secs(i64::MAX as u64)));
    assert_eq!(read(Refusal::of(14, "CIRCUIT_OPEN")).retry_after(), None);
}

#[test]
fn hints_name_what_they_are_about() {
    let about = |reason, key, value| {
        read(Refusal::packed(9, reason, DOMAIN, &[(key, value)], None, &[], None))
    };
    assert!(about("CIRCUIT_OPEN", "gateway_id", "paper").hint().contains("explain paper"));
    assert!(about("GATEWAY_DRAINING", "gateway_id", "paper").hint().contains("resume paper"));
    assert!(about("INTERNAL", "error_id", "e1").hint().contains("e1"));
    let denied = about("PERMISSION_DENIED", "needed_role", "trader");
    assert_eq!(denied.needed_role(), "trader");
    assert!(denied.hint().contains("trader"));
    assert_eq!(about("SESSION_CLOSED", "close_reason", "X").close_reason(), "X");
}

#[test]
fn a_reason_of_a_newer_broker_is_told_as_it_is() {
    let error = read(Refusal::packed(9, "NEW", DOMAIN, &[("a", "b")], None, &[], None));
    assert_eq!(error.kind(), ErrorKind::UnknownReason);
    assert_eq!((error.reason(), error.message()), ("NEW", "refused"));
    assert_eq!(error.metadata()["a"], "b");
    assert!(!error.is_retryable());
}

#[test]
fn an_error_of_somebody_else_is_none_of_ours() {
    let error = read(Refusal::packed(5, "SESSION_NOT_FOUND", "example.com", &[], None, &[], None));
    assert_eq!(error.kind(), ErrorKind::UnexpectedAnswer);
    assert_eq!((error.reason(), error.code()), ("", Code::NotFound));
    assert!(error.message().contains("NOT_FOUND: refused"), "{error}");
}

#[test]
fn broken_details_are_no_details() {
    let good = any("google.rpc.ErrorInfo", &ErrorInfo { domain: DOMAIN.into(), ..<_>::default() });
    let mut broken = any("google.rpc.RetryInfo", &RichStatus::default());
    broken.value = vec![0xff; 7];
    let half = RichStatus { details: vec![good, broken], ..<_>::default() }.encode_to_vec();
    for details in [vec![0xff; 9], half, b"text".to_vec()] {
        let error = read(Refusal { code: 9, details, ..Refusal::bare(9, "said") });
        assert_eq!(error.kind(), ErrorKind::UnexpectedAnswer);
    }
}

#[test]
fn statuses_without_details_are_not_a_brokers() {
    for code in (1..17).map(Code::from_i32) {
        let expected = match code {
            Code::DeadlineExceeded => ErrorKind::CallTimeout,
            Code::Unavailable | Code::Cancelled => ErrorKind::BrokerUnreachable,
            _ => ErrorKind::UnexpectedAnswer,
        };
        let error = bare(code);
        assert_eq!(error.kind(), expected, "{code:?}");
        assert_eq!(error.is_retryable(), expected != ErrorKind::UnexpectedAnswer);
        assert_eq!(error.reason(), "");
    }
}

#[test]
fn an_error_reads_well_and_fits_where_errors_go() {
    let mut status = Status::not_found("no such session.");
    status.metadata_mut().insert("x-correlation-id", "c1".parse().unwrap());
    let error: Box<dyn std::error::Error + Send + Sync> = BrokerError::from(status).into();
    assert_eq!(
        error.to_string(),
        "something answered NOT_FOUND: no such session. Hint: it is no gateway-broker, an older \
         one, or something between has answered (correlation id c1)"
    );
    let own = BrokerError::new(ErrorKind::BrokerDraining, "the stream has ended");
    assert_eq!(own.to_string(), "BROKER_DRAINING: the stream has ended");
    assert_eq!(format!("{own:?}"), "BrokerDraining: BROKER_DRAINING: the stream has ended");
    assert!(size_of::<BrokerError>() <= size_of::<usize>());
}
