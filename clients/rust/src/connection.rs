//! The way to a broker, and who calls.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::codegen::http::uri::Authority;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tower::util::MapResponse;

use crate::call::{correlate, uuid4};
use crate::readable::readable;
use crate::status::with_causes;
use crate::v1::broker_service_client::BrokerServiceClient;
use crate::v1::gateway_service_client::GatewayServiceClient;
use crate::v1::session_service_client::SessionServiceClient;

const OWNER_KEY: &str = "x-broker-owner";
const TOKEN_KEY: &str = "authorization";

const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A broker whose machine has died is noticed within 40 s, also by a call that waits for long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For TCP, and again for TLS: a host that swallows what is sent to it holds up no call for longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// So much of a stream waits to be read, in bytes, and of all streams of a connection. A full
/// connection would hold up each answer, also those to renewals: it has room for 256 unread streams.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;

/// How a [`Broker`] sends: stubs of a type such as `SessionServiceClient<Link>`.
pub type Link = InterceptedService<MapResponse<Channel, Readable>, Caller>;
/// What a [`Link`] makes of each answer: one that tonic can read.
type Readable = fn(Response<Body>) -> Response<Body>;

/// Who calls, and how the broker is to be trusted.
///
/// ```
/// use ibgateway_client::Access;
///
/// # fn f() -> std::io::Result<()> {
/// let open = Access::new().owner("momentum");
/// let closed = Access::new()
///     .ca(std::fs::read("trial/ca.pem")?)
///     .token(std::fs::read_to_string("trial/trader.token")?.trim_end());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Access {
    owner: Option<String>,
    token: Option<String>,
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Access {
    /// Plain text, under the name that the broker gives.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The name under which sessions are opened, printable ASCII, at most 128 characters. Without it
    /// the broker says: `"local"`, or whom the token or the certificate names. A broker that asks for
    /// one of these refuses any other name.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// A token, shown with each call: over TLS or to this machine, never elsewhere.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// TLS to a broker whose certificate is of this authority, in PEM.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// A certificate of one's own and its key, in PEM, for a broker that asks for one; needs
    /// [`ca`](Self::ca).
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }
}

impl fmt::Debug for Access {
    /// Without what is secret: it ends in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("owner", &self.owner)
            .field("token", &self.token.is_some())
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// Why [`connect`] refuses.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not HOST:PORT.
    Address(String),
    /// The owner is not a name in printable ASCII.
    Owner(String),
    /// The token is not printable ASCII without blanks. It is not shown: errors end in logs.
    Token,
    /// The token would go to this address for everybody to read: [`Access::ca`] is missing.
    PlainText(String),
    /// The certificates or the key can be no such thing.
    Tls(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(given) => {
                write!(f, "address must be HOST:PORT, such as \"127.0.0.1:50051\", not {given:?}")
            }
            Self::Owner(given) => {
                write!(f, "owner must be a name in printable ASCII, not {given:?}")
            }
            Self::Token => {
                f.write_str("token must be printable ASCII without blanks: strip the file's end")
            }
            Self::PlainText(address) => write!(
                f,
                "a token must not be sent to {address} in plain text; give the authority of its \
                 certificate with Access::ca"
            ),
            Self::Tls(why) => write!(f, "TLS cannot be used: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// A broker that is reached over the network.
///
/// Nothing is sent before the first call, which may fail with
/// [`BrokerUnreachable`](crate::ErrorKind::BrokerUnreachable); each later one tries to connect anew
/// if need be. While a call is under way the broker is asked every 30 s whether it lives.
///
/// # Errors
///
/// The address, the owner or the token can be no such thing, or the token would be sent for
/// everybody to read.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn connect(address: &str, access: Access) -> Result<Broker, ConnectError> {
    let refused = || ConnectError::Address(address.to_owned());
    let authority: Authority = address.parse().map_err(|_| refused())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
        return Err(refused());
    }
    let is_plain = access.ca.is_none();
    let caller = Caller::new(access.owner, access.token.as_deref())?;
    if is_plain && caller.token.is_some() && !is_local(authority.host()) {
        return Err(ConnectError::PlainText(address.to_owned()));
    }
    let scheme = if is_plain { "http" } else { "https" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .and_then(|it| it.user_agent(concat!("ibgateway-client/", env!("CARGO_PKG_VERSION"))))
        .map_err(|_| refused())?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    if let Some(tls) = tls(access.ca, access.identity)? {
        let broken = |error: tonic::transport::Error| {
            ConnectError::Tls(with_causes(&error.to_string(), &error))
        };
        endpoint = endpoint.tls_config(tls).map_err(broken)?;
    }
    Ok(Broker {
        address: address.to_owned(),
        link: InterceptedService::new(MapResponse::new(endpoint.connect_lazy(), readable), caller),
    })
}

fn tls(
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
) -> Result<Option<ClientTlsConfig>, ConnectError> {
    let Some(ca) = ca else {
        return match identity {
            Some(_) => Err(ConnectError::Tls("a certificate of one's own needs Access::ca".into())),
            None => Ok(None),
        };
    };
    // An authority that is none would trust nobody, and say so with the first call only.
    if !ca.windows(PEM_CERTIFICATE.len()).any(|it| it == PEM_CERTIFICATE) {
        return Err(ConnectError::Tls("there is no certificate in what Access::ca got".into()));
    }
    // The endpoint's own timeout ends with TCP.
    let mut config =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).timeout(CONNECT_TIMEOUT);
    if let Some((certificate, key)) = identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    Ok(Some(config))
}

/// Whether a host is this machine, whatever a name server says.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().map_or_else(
        |_| host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
        |ip| ip.is_loopback(),
    )
}

/// A connection to a broker, made by [`connect`]; clones share it. It ends with the last of its stubs.
#[derive(Clone)]
pub struct Broker {
    address: String,
    link: Link,
}

impl Broker {
    /// HOST:PORT.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Opens, watches and closes sessions.
    #[must_use]
    pub fn sessions(&self) -> SessionServiceClient<Link> {
        SessionServiceClient::new(self.link.clone())
    }

    /// The configured gateways, and what operators decide about them.
    #[must_use]
    pub fn gateways(&self) -> GatewayServiceClient<Link> {
        GatewayServiceClient::new(self.link.clone())
    }

    /// What this broker is and can do.
    #[must_use]
    pub fn info(&self) -> BrokerServiceClient<Link> {
        BrokerServiceClient::new(self.link.clone())
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({})", self.address)
    }
}

/// Says with each call who calls, and gives each a correlation id unless it has one.
///
/// Only [`connect`] makes one, so that a token never meets a channel that it must not be sent over.
#[derive(Clone)]
pub struct Caller {
    owner: Option<MetadataValue<Ascii>>,
    token: Option<MetadataValue<Ascii>>,
}

impl Caller {
    fn new(owner: Option<String>, token: Option<&str>) -> Result<Self, ConnectError> {
        let owner = match owner {
            Some(name) if is_printable(&name) => MetadataValue::try_from(name).ok(),
            Some(name) => return Err(ConnectError::Owner(name)),
            None => None,
        };
        let token = match token {
            Some(token) if is_printable(token) && !token.contains(' ') => {
                let mut value = MetadataValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| ConnectError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
            Some(_) => return Err(ConnectError::Token),
            None => None,
        };
        Ok(Self { owner, token })
    }
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        for (key, value) in [(OWNER_KEY, &self.owner), (TOKEN_KEY, &self.token)] {
            if let Some(value) = value {
                metadata.insert(key, value.clone());
            }
        }
        correlate(&mut request, &uuid4());
        Ok(request)
    }
}

impl fmt::Debug for Caller {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("owner", &self.owner)
            .field("token", &self.token.is_some())
            .finish()
    }
}
