//! What a request gives, as messages of the API.

use std::collections::HashMap;
use std::time::Duration;

use ibgateway_client::prost_types;
use ibgateway_client::v1::{ClientIdPolicy, OpenSessionRequest, SessionState};
use serde_json::{Map, Value};

/// What the runner cannot do.
pub type Broken = String;

/// The fields of a request; one that is absent, or null, is not set.
pub struct Given(Map<String, Value>);

impl Given {
    pub fn new(request: &Value) -> Self {
        Self(request["with"].as_object().cloned().unwrap_or_default())
    }

    fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Broken> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(found) => Ok(Some(found)),
                None => Err(format!("{key} cannot be {value}")),
            },
        }
    }

    pub fn text(&self, key: &str) -> Result<String, Broken> {
        Ok(self.optional_text(key)?.unwrap_or_default())
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<String>, Broken> {
        self.read(key, |it| it.as_str().map(str::to_owned))
    }

    pub fn flag(&self, key: &str) -> Result<bool, Broken> {
        Ok(self.read(key, Value::as_bool)?.unwrap_or_default())
    }

    pub fn integer<T: TryFrom<i64>>(&self, key: &str) -> Result<Option<T>, Broken> {
        self.read(key, |it| it.as_i64().and_then(|it| T::try_from(it).ok()))
    }

    pub fn texts(&self, key: &str) -> Result<Vec<String>, Broken> {
        let texts = |it: &Value| {
            it.as_array()?.iter().map(|each| each.as_str().map(str::to_owned)).collect()
        };
        Ok(self.read(key, texts)?.unwrap_or_default())
    }

    pub fn labels(&self) -> Result<HashMap<String, String>, Broken> {
        let pairs = |it: &Value| {
            let pairs = it.as_object()?.iter();
            pairs.map(|(key, each)| Some((key.clone(), each.as_str()?.to_owned()))).collect()
        };
        Ok(self.read("labels", pairs)?.unwrap_or_default())
    }

    pub fn states(&self) -> Result<Vec<i32>, Broken> {
        let state = |name: String| {
            let found = SessionState::from_str_name(&format!("SESSION_STATE_{name}"));
            found.map(i32::from).ok_or_else(|| format!("there is no state {name}"))
        };
        self.texts("states")?.into_iter().map(state).collect()
    }

    /// Seconds that may be any number, for the broker to judge.
    #[allow(clippy::cast_possible_truncation, reason = "rounded, and casts of floats saturate")]
    pub fn duration(&self, key: &str) -> Result<Option<prost_types::Duration>, Broken> {
        let seconds = self.read(key, Value::as_f64)?;
        Ok(seconds.map(|it| prost_types::Duration {
            seconds: it.trunc() as i64,
            nanos: (it.fract() * 1e9).round() as i32,
        }))
    }

    /// Seconds to wait.
    pub fn wait(&self, key: &str, default: Duration) -> Result<Duration, Broken> {
        let wait = |it: &Value| Duration::try_from_secs_f64(it.as_f64()?).ok();
        Ok(self.read(key, wait)?.unwrap_or(default))
    }

    pub fn opening(&self) -> Result<OpenSessionRequest, Broken> {
        let policy = match self.optional_text("client_id_policy")? {
            Some(name) => ClientIdPolicy::from_str_name(&format!("CLIENT_ID_POLICY_{name}"))
                .ok_or_else(|| format!("there is no policy {name}"))?,
            None => ClientIdPolicy::Unspecified,
        };
        Ok(OpenSessionRequest {
            gateway_id: self.text("gateway_id")?,
            client_id: self.integer("client_id")?,
            client_id_policy: policy.into(),
            readonly: self.flag("readonly")?,
            timeout: self.duration("timeout")?,
            max_attempts: self.integer("max_attempts")?,
            reconnect_max_attempts: self.integer("reconnect_max_attempts")?,
            request_id: self.text("request_id")?,
            lease_ttl: self.duration("lease_ttl")?,
            labels: self.labels()?,
            return_immediately: self.flag("return_immediately")?,
            validate_only: self.flag("validate_only")?,
        })
    }
}
