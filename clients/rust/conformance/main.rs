//! The runner of the Rust client: see clients/conformance/README.md.
//!
//! It does what it is told, one request a line, and says what came of it. The stubs have no layer of
//! sessions; a watch resumes in the way of the example `keep_a_session`, by its code.

#[path = "../examples/keep_a_session/backoff.rs"]
mod backoff;
#[path = "../examples/keep_a_session/continuity.rs"]
mod continuity;
#[path = "../examples/keep_a_session/watch.rs"]
mod watch;

mod answers;
mod given;
mod requests;
mod simulator;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use tokio::task::JoinHandle;

use crate::given::{Broken, Given};
use crate::requests::{Failed, Runner};

/// For a request to end that was cancelled.
const CANCELS: Duration = Duration::from_secs(10);

type Background = HashMap<String, JoinHandle<Value>>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let runner = Arc::new(Runner::default());
    let mut background = Background::new();
    let mut lines = BufReader::new(stdin()).lines();
    let mut out = stdout();
    while let Some(line) = lines.next_line().await? {
        let answer = answer(&runner, &mut background, &line).await;
        let answer = answer.unwrap_or_else(|broken| json!({"broken": broken}));
        out.write_all(format!("{answer}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

async fn answer(
    runner: &Arc<Runner>,
    background: &mut Background,
    line: &str,
) -> Result<Value, Broken> {
    let request: Value = serde_json::from_str(line).map_err(|it| it.to_string())?;
    let given = Given::new(&request);
    match request["do"].as_str() {
        Some("await") => {
            return ended(background, &given.text("name")?, given.wait("within", CANCELS)?).await;
        }
        Some("cancel") => {
            let name = given.text("name")?;
            // A task that is aborted drops its call, which cancels it.
            background.get(&name).ok_or_else(|| format!("nothing is called {name}"))?.abort();
            return ended(background, &name, CANCELS).await;
        }
        _ => {}
    }
    let runner = runner.clone();
    let name = request["background"].as_str().map(str::to_owned);
    // A task of its own: a bug of a request is told as its answer.
    let task = tokio::spawn(async move { outcome(&runner, &request).await });
    match name {
        Some(name) => {
            background.insert(name, task);
            Ok(json!({"result": {}}))
        }
        None => task.await.map_err(|it| it.to_string()),
    }
}

async fn outcome(runner: &Runner, request: &Value) -> Value {
    match runner.perform(request).await {
        Ok(result) => json!({"result": result}),
        Err(Failed::Call(error)) => json!({"error": answers::error(&error)}),
        Err(Failed::Gap(gap)) => json!({"error": answers::gap(&gap)}),
        Err(Failed::Refused(refused)) => {
            json!({"error": {"type": "Refused", "message": refused.to_string()}})
        }
        Err(Failed::Broken(broken)) => json!({"broken": broken}),
    }
}

/// The outcome of a request in the background.
async fn ended(background: &mut Background, name: &str, within: Duration) -> Result<Value, Broken> {
    let task = background.get_mut(name).ok_or_else(|| format!("nothing is called {name}"))?;
    let ended = tokio::time::timeout(within, task).await;
    let ended = ended.map_err(|_| format!("{name} has not ended"))?;
    background.remove(name);
    match ended {
        Err(error) if error.is_cancelled() => Ok(json!({"error": {"type": "Cancelled"}})),
        ended => ended.map_err(|it| it.to_string()),
    }
}
