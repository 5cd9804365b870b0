//! Each request, done with the client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ibgateway_client::v1::session_service_client::SessionServiceClient;
use ibgateway_client::v1::{
    AcknowledgeDataRequest, CloseSessionRequest, DrainGatewayRequest, GetBrokerInfoRequest,
    GetGatewayRequest, GetSessionRequest, ListGatewaysRequest, ListSessionEventsRequest,
    ListSessionsRequest, RenewSessionRequest, ResetCircuitBreakerRequest, ResumeGatewayRequest,
    Role, VerifySessionRequest, WatchSessionsRequest,
};
use ibgateway_client::{
    Access, Broker, BrokerError, CLOSE_TIMEOUT, ConnectError, Link, OPEN_TIMEOUT, TIMEOUT,
    VERIFY_TIMEOUT, call, connect,
};
use serde_json::{Value, json};

use crate::answers;
use crate::continuity::WatchGap;
use crate::given::{Broken, Given};
use crate::simulator::simulate;
use crate::watch::{Item, SILENCE, Watch, WatchError};

/// Why there is no result.
pub enum Failed {
    Call(BrokerError),
    Gap(WatchGap),
    Refused(ConnectError),
    Broken(Broken),
}

impl From<BrokerError> for Failed {
    fn from(error: BrokerError) -> Self {
        Self::Call(error)
    }
}

impl From<ConnectError> for Failed {
    fn from(refused: ConnectError) -> Self {
        Self::Refused(refused)
    }
}

impl From<WatchError> for Failed {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Gap(gap) => Self::Gap(gap),
            WatchError::Refused(error) => Self::Call(error),
        }
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A watch, and the token of the last item that it has told.
struct Watched {
    on: String,
    watch: Watch,
    token: String,
}

/// Things by their names.
type Named<T> = Mutex<HashMap<String, T>>;

fn put<T>(all: &Named<T>, name: String, one: T) {
    all.lock().unwrap_or_else(PoisonError::into_inner).insert(name, one);
}

fn find<T: Clone>(all: &Named<T>, name: &str) -> Result<T, Broken> {
    let found = all.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    found.ok_or_else(|| format!("nothing is called {name}"))
}

/// Connections, handles and watches.
#[derive(Default)]
pub struct Runner {
    brokers: Named<Broker>,
    /// The connection and the session of each handle.
    handles: Named<(String, String)>,
    watches: Named<Arc<tokio::sync::Mutex<Watched>>>,
}

impl Runner {
    /// Do what a request says.
    pub async fn perform(&self, request: &Value) -> Result<Value, Failed> {
        let on = request["on"].as_str().unwrap_or("main");
        let given = Given::new(request);
        match request["do"].as_str().unwrap_or_default() {
            "hello" => Ok(json!({
                "language": "Rust",
                "version": option_env!("CARGO_PKG_RUST_VERSION"),
                "layer": false,
            })),
            "connect" => self.connect(on, &given),
            "disconnect" => self.disconnect(on),
            "detach" => Ok(json!({})),
            "watch" => self.watch(on, &given),
            "next" => self.next(&given).await,
            "stop_watch" => self.stop_watch(&given).await,
            "simulate" => {
                let fields = Given::new(&json!({"with": request["with"]["fields"]}));
                simulate(&given.text("address")?, &given.text("rpc")?, &fields).await
            }
            name @ ("list_gateways"
            | "get_gateway"
            | "drain_gateway"
            | "resume_gateway"
            | "reset_circuit_breaker") => self.gateways(name, on, &given).await,
            "get_broker_info" => self.info(on).await,
            "list_sessions" => self.list_sessions(on, &given).await,
            "list_session_events" => self.list_session_events(on, &given).await,
            name => self.sessions(name, on, &given).await,
        }
    }

    fn stub(&self, on: &str) -> Result<SessionServiceClient<Link>, Broken> {
        Ok(find(&self.brokers, on)?.sessions())
    }

    // -- connections -----------------------------------------------------------------

    fn connect(&self, on: &str, given: &Given) -> Result<Value, Failed> {
        let mut access = Access::new();
        if let Some(owner) = given.optional_text("owner")? {
            access = access.owner(owner);
        }
        if let Some(token) = given.optional_text("token")? {
            access = access.token(token);
        }
        if let Some(path) = given.optional_text("ca")? {
            access = access.ca(std::fs::read(path).map_err(|it| it.to_string())?);
        }
        put(&self.brokers, on.to_owned(), connect(&given.text("address")?, access)?);
        Ok(json!({}))
    }

    fn disconnect(&self, on: &str) -> Result<Value, Failed> {
        find(&self.brokers, on)?;
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner).remove(on);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being read ends with the request that reads it.
        watches.retain(|_, it| it.try_lock().is_ok_and(|it| it.on != on));
        Ok(json!({}))
    }

    // -- sessions --------------------------------------------------------------------

    async fn sessions(&self, name: &str, on: &str, given: &Given) -> Result<Value, Failed> {
        let session_id = given.text("session_id")?;
        let session = match name {
            "open_session" | "validate_session" => return self.open(name, on, given).await,
            "close_handle" => {
                let (on, session_id) = find(&self.handles, &given.text("handle")?)?;
                let (mut stub, reason) = (self.stub(&on)?, String::new());
                let request = CloseSessionRequest { session_id, reason };
                call(request, CLOSE_TIMEOUT, async |it| stub.close_session(it).await).await?.session
            }
            "close_session" => {
                let (mut stub, reason) = (self.stub(on)?, given.text("reason")?);
                let request = CloseSessionRequest { session_id, reason };
                call(request, CLOSE_TIMEOUT, async |it| stub.close_session(it).await).await?.session
            }
            "get_session" => {
                let (mut stub, deadline) = (self.stub(on)?, given.wait("deadline", TIMEOUT)?);
                let request = GetSessionRequest { session_id };
                call(request, deadline, async |it| stub.get_session(it).await).await?.session
            }
            "renew_session" => {
                let (mut stub, lease_ttl) = (self.stub(on)?, given.duration("lease_ttl")?);
                let request = RenewSessionRequest { session_id, lease_ttl };
                call(request, TIMEOUT, async |it| stub.renew_session(it).await).await?.session
            }
            "acknowledge_data" => {
                let mut stub = self.stub(on)?;
                let generation = given.integer("generation")?.unwrap_or_default();
                let request = AcknowledgeDataRequest { session_id, generation };
                call(request, TIMEOUT, async |it| stub.acknowledge_data(it).await).await?.session
            }
            "verify_session" => {
                let mut stub = self.stub(on)?;
                let request = VerifySessionRequest { session_id };
                let verified =
                    call(request, VERIFY_TIMEOUT, async |it| stub.verify_session(it).await).await?;
                return Ok(json!({
                    "healthy": verified.healthy,
                    "latency": answers::seconds(verified.latency.as_ref()),
                    "failure": answers::failure(verified.failure.as_ref()),
                }));
            }
            _ => return Err(Failed::Broken(format!("there is no request {name}"))),
        };
        Ok(json!({"session": answers::session(session.as_ref())}))
    }

    async fn open(&self, name: &str, on: &str, given: &Given) -> Result<Value, Failed> {
        let (mut stub, mut request) = (self.stub(on)?, given.opening()?);
        request.validate_only |= name == "validate_session";
        let is_validation = request.validate_only;
        let deadline = given.wait("deadline", OPEN_TIMEOUT)?;
        let opened = call(request, deadline, async |it| stub.open_session(it).await).await?;
        if is_validation {
            return Ok(json!({}));
        }
        if let (Some(handle), Some(session)) = (given.optional_text("handle")?, &opened.session) {
            put(&self.handles, handle, (on.to_owned(), session.session_id.clone()));
        }
        let session = answers::session(opened.session.as_ref());
        Ok(json!({"session": session, "created": opened.created}))
    }

    async fn list_sessions(&self, on: &str, given: &Given) -> Result<Value, Failed> {
        let mut stub = self.stub(on)?;
        let mut request = ListSessionsRequest {
            session_ids: given.texts("session_ids")?,
            gateway_id: given.text("gateway_id")?,
            owner: given.text("owner")?,
            labels: given.labels()?,
            states: given.states()?,
            include_final: given.flag("include_final")?,
            page_size: given.integer("page_size")?.unwrap_or_default(),
            page_token: String::new(),
        };
        let mut found = Vec::new();
        loop {
            let page =
                call(request.clone(), TIMEOUT, async |it| stub.list_sessions(it).await).await?;
            found.extend(page.sessions.iter().map(|it| answers::session(Some(it))));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(json!({"sessions": found}));
            }
        }
    }

    async fn list_session_events(&self, on: &str, given: &Given) -> Result<Value, Failed> {
        let mut stub = self.stub(on)?;
        let mut request = ListSessionEventsRequest {
            session_id: given.text("session_id")?,
            page_size: given.integer("page_size")?.unwrap_or_default(),
            page_token: String::new(),
        };
        let mut found = Vec::new();
        loop {
            let page =
                call(request.clone(), TIMEOUT, async |it| stub.list_session_events(it).await)
                    .await?;
            found.extend(page.events.iter().map(|it| answers::event(it, None)));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(json!({"events": found}));
            }
        }
    }

    // -- watches ---------------------------------------------------------------------

    fn watch(&self, on: &str, given: &Given) -> Result<Value, Failed> {
        let request = WatchSessionsRequest {
            session_ids: given.texts("session_ids")?,
            gateway_id: given.text("gateway_id")?,
            owner: given.text("owner")?,
            labels: given.labels()?,
            states: given.states()?,
            include_final: given.flag("include_final")?,
            resume_token: given.text("resume_token")?,
        };
        let watched = Watched {
            on: on.to_owned(),
            token: request.resume_token.clone(),
            watch: Watch::new(self.stub(on)?, request, SILENCE),
        };
        put(&self.watches, given.text("name")?, Arc::new(watched.into()));
        Ok(json!({}))
    }

    async fn next(&self, given: &Given) -> Result<Value, Failed> {
        let within = given.wait("within", Duration::from_secs(10))?;
        let watched = find(&self.watches, &given.text("watch")?)?;
        let mut watched = watched.lock().await;
        match tokio::time::timeout(within, watched.watch.next()).await {
            Err(_) => Ok(Value::Null),
            Ok(Ok(Item::Told(response))) => {
                watched.token.clone_from(&response.resume_token);
                Ok(answers::told(&response))
            }
            Ok(Ok(Item::Interrupted(error))) => Ok(json!({
                "kind": "interrupted",
                "token": watched.token,
                "error": answers::error(&error),
            })),
            Ok(Ok(Item::Resumed)) => Ok(json!({"kind": "resumed", "token": watched.token})),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn stop_watch(&self, given: &Given) -> Result<Value, Failed> {
        let name = given.text("watch")?;
        let watched = find(&self.watches, &name)?;
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        let token = watched.lock().await.token.clone();
        Ok(json!({"token": token}))
    }

    // -- gateways and the broker -----------------------------------------------------

    async fn gateways(&self, name: &str, on: &str, given: &Given) -> Result<Value, Failed> {
        let mut stub = find(&self.brokers, on)?.gateways();
        let gateway_id = given.text("gateway_id")?;
        let gateway = match name {
            "list_gateways" => {
                let request = ListGatewaysRequest {};
                let listed =
                    call(request, TIMEOUT, async |it| stub.list_gateways(it).await).await?.gateways;
                let gateways: Vec<_> = listed.iter().map(|it| answers::gateway(Some(it))).collect();
                return Ok(json!({"gateways": gateways}));
            }
            "get_gateway" => {
                let request = GetGatewayRequest { gateway_id };
                call(request, TIMEOUT, async |it| stub.get_gateway(it).await).await?.gateway
            }
            "drain_gateway" => {
                let request = DrainGatewayRequest {
                    gateway_id,
                    reason: given.text("reason")?,
                    close_sessions: given.flag("close_sessions")?,
                };
                call(request, CLOSE_TIMEOUT, async |it| stub.drain_gateway(it).await).await?.gateway
            }
            "resume_gateway" => {
                let request = ResumeGatewayRequest { gateway_id };
                call(request, TIMEOUT, async |it| stub.resume_gateway(it).await).await?.gateway
            }
            _ => {
                let request = ResetCircuitBreakerRequest { gateway_id };
                call(request, TIMEOUT, async |it| stub.reset_circuit_breaker(it).await)
                    .await?
                    .gateway
            }
        };
        Ok(json!({"gateway": answers::gateway(gateway.as_ref())}))
    }

    async fn info(&self, on: &str) -> Result<Value, Failed> {
        let mut stub = find(&self.brokers, on)?.info();
        let request = GetBrokerInfoRequest {};
        let info = call(request, TIMEOUT, async |it| stub.get_broker_info(it).await).await?;
        let access = info.access.unwrap_or_default();
        let role = match access.role() {
            Role::Unspecified => None, // nobody is asked who he is
            role => Some(answers::name(role.as_str_name(), "ROLE_")),
        };
        Ok(json!({
            "version": info.version,
            "store_id": info.store_id,
            "capabilities": info.capabilities,
            "caller": access.caller,
            "role": role,
        }))
    }
}
