//! Sessions with Interactive Brokers Gateway, brokered by a gateway-broker.
//!
//! [`v1`] has the stubs; their comments are the contract. Around them is what every caller needs:
//! [`connect`] makes a channel that notices a dead broker and never shows a token to the network,
//! [`call`] gives a call its deadline, and [`BrokerError`] says what went wrong and who acts.
//!
//! ```no_run
//! use ibgateway_client::v1::{ClientIdPolicy, CloseSessionRequest, OpenSessionRequest};
//! use ibgateway_client::{Access, BrokerError, CLOSE_TIMEOUT, OPEN_TIMEOUT, call, connect, uuid4};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut sessions = connect("127.0.0.1:50051", Access::new().owner("momentum"))?.sessions();
//! let request = OpenSessionRequest {
//!     client_id: Some(7),
//!     client_id_policy: ClientIdPolicy::Exact.into(), // orders belong to the id
//!     request_id: uuid4(),                            // it may be repeated
//!     ..Default::default()
//! };
//! let opened = call(request, OPEN_TIMEOUT, async |it| sessions.open_session(it).await).await?;
//! let session = opened.session.unwrap_or_default();
//! println!("{} {:?}", session.session_id, session.state());
//!
//! let request = CloseSessionRequest { session_id: session.session_id, ..Default::default() };
//! call(request, CLOSE_TIMEOUT, async |it| sessions.close_session(it).await).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A session should have a lease (`lease_ttl`) and be renewed at a third of it, and a watch resumes
//! with the token of the last message that was handled. Neither is done by itself: the example
//! `keep_a_session` shows both in full, to be copied.

mod call;
mod connection;
mod error;
mod readable;
mod status;

pub use crate::call::{CLOSE_TIMEOUT, OPEN_TIMEOUT, TIMEOUT, VERIFY_TIMEOUT, call, uuid4};
pub use crate::connection::{Access, Broker, Caller, ConnectError, Link, connect};
pub use crate::error::{BrokerError, ErrorKind};
pub use prost_types;
pub use tonic;
pub use tonic_types::FieldViolation;

/// The broker's API, generated from `proto/ibgateway/broker/v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    include!("gen/ibgateway/broker/v1/ibgateway.broker.v1.rs");
}

/// What controls the simulated Gateway, for tests of your own.
pub mod simulator {
    /// Generated from `proto/ibgateway/simulator/v1`.
    #[allow(clippy::all, clippy::pedantic, missing_docs)]
    pub mod v1 {
        include!("gen/ibgateway/simulator/v1/ibgateway.simulator.v1.rs");
    }
}
