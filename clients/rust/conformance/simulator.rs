//! What is asked of the simulated Gateway.

use std::time::Duration;

use ibgateway_client::simulator::v1::simulator_service_client::SimulatorServiceClient;
use ibgateway_client::simulator::v1::{
    ArmFaultRequest, ClearFaultsRequest, DropClientsRequest, SendNoticeRequest,
    SetListeningRequest, SetMuteRequest,
};
use ibgateway_client::tonic::transport::Endpoint;
use ibgateway_client::{TIMEOUT, call};
use serde_json::Value;

use crate::given::Given;
use crate::requests::Failed;

/// One request of its control service.
pub async fn simulate(address: &str, rpc: &str, fields: &Given) -> Result<Value, Failed> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|it| Failed::Broken(it.to_string()))?
        .connect_timeout(Duration::from_secs(5));
    let mut stub = SimulatorServiceClient::new(endpoint.connect_lazy());
    match rpc {
        "ArmFault" => {
            let request =
                ArmFaultRequest { fault: fields.text("fault")?, times: fields.integer("times")? };
            call(request, TIMEOUT, async |it| stub.arm_fault(it).await).await?;
        }
        "ClearFaults" => {
            let request = ClearFaultsRequest {};
            call(request, TIMEOUT, async |it| stub.clear_faults(it).await).await?;
        }
        "DropClients" => {
            let request = DropClientsRequest {
                reset: fields.flag("reset")?,
                client_id: fields.integer("client_id")?,
                mid_message: fields.flag("mid_message")?,
            };
            call(request, TIMEOUT, async |it| stub.drop_clients(it).await).await?;
        }
        "SetListening" => {
            let request = SetListeningRequest { listening: fields.flag("listening")? };
            call(request, TIMEOUT, async |it| stub.set_listening(it).await).await?;
        }
        "SetMute" => {
            let request = SetMuteRequest {
                muted: fields.flag("muted")?,
                client_id: fields.integer("client_id")?,
            };
            call(request, TIMEOUT, async |it| stub.set_mute(it).await).await?;
        }
        "SendNotice" => {
            let request = SendNoticeRequest {
                code: fields.integer("code")?.unwrap_or_default(),
                text: fields.text("text")?,
                client_id: fields.integer("client_id")?,
                request_id: fields.integer("request_id")?,
            };
            call(request, TIMEOUT, async |it| stub.send_notice(it).await).await?;
        }
        _ => return Err(Failed::Broken(format!("there is no rpc {rpc}"))),
    }
    Ok(Value::Object(serde_json::Map::new()))
}
