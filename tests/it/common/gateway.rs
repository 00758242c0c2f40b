//! Calls the API of a world's etcd as JSON over HTTP, through etcd's gRPC gateway. This takes about a tenth of the processor
//! time of starting etcdctl.

use std::thread::sleep;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use ureq::Agent;

use crate::common::world::{PASSWORD, World};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call is repeated while etcd starts.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const MAX_ANSWER: u64 = 512 << 20;

impl World {
    /// Calls a method once, such as `/v3/kv/range`. Returns etcd's answer, or the reason why there is none.
    pub fn call_once(&self, path: &str, request: &Value) -> Result<Value, String> {
        let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        let agent = config.build().new_agent();
        let token = if self.setup().auth { self.token(&agent)? } else { None };
        self.post(&agent, path, request, token.as_deref())
    }

    /// Calls a method that changes nothing, and repeats the call while etcd starts.
    #[track_caller]
    pub fn query(&self, path: &str, request: &Value) -> Value {
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        loop {
            match self.call_once(path, request) {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error}: {}", self.log()),
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Calls a method that changes something. It must succeed.
    #[track_caller]
    pub fn change(&self, path: &str, request: &Value) {
        let answer = self.call_once(path, request);
        answer.unwrap_or_else(|error| panic!("{path}: {error}: {}", self.log()));
    }

    /// Logs in. Returns `None` if auth is off.
    fn token(&self, agent: &Agent) -> Result<Option<String>, String> {
        let login = json!({"name": "root", "password": PASSWORD});
        match self.post(agent, "/v3/auth/authenticate", &login, None) {
            Ok(answer) => Ok(Some(answer["token"].as_str().unwrap().to_owned())),
            Err(error) if error.contains("authentication is not enabled") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn post(&self, agent: &Agent, path: &str, request: &Value, token: Option<&str>) -> Result<Value, String> {
        let mut post = agent.post(format!("{}{path}", self.gateway_url()));
        if let Some(token) = token {
            post = post.header("Authorization", token);
        }
        let mut answer = post.send(request.to_string()).map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let body = body.map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }
}

/// Encodes the bytes of a key or a value as the gateway expects them.
pub fn encode(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// Decodes a field of the gateway's or etcdctl's JSON. A missing field is empty.
pub fn bytes(field: &Value) -> Vec<u8> {
    Base64::decode_vec(field.as_str().unwrap_or_default()).unwrap()
}

/// Returns a number in the gateway's JSON, which writes 64 bits as text. A missing number is zero.
pub fn number(field: &Value) -> i64 {
    field.as_str().map_or(0, |text| text.parse().unwrap())
}
