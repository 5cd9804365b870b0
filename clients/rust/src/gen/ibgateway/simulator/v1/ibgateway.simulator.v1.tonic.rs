// @generated
/// Generated client implementations.
pub mod simulator_service_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    #[derive(Debug, Clone)]
    pub struct SimulatorServiceClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl SimulatorServiceClient<tonic::transport::Channel> {
        /// Attempt to create a new client by connecting to a given endpoint.
        pub async fn connect<D>(dst: D) -> Result<Self, tonic::transport::Error>
        where
            D: TryInto<tonic::transport::Endpoint>,
            D::Error: Into<StdError>,
        {
            let conn = tonic::transport::Endpoint::new(dst)?.connect().await?;
            Ok(Self::new(conn))
        }
    }
    impl<T> SimulatorServiceClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> SimulatorServiceClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            SimulatorServiceClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        pub async fn get_simulator(
            &mut self,
            request: impl tonic::IntoRequest<super::GetSimulatorRequest>,
        ) -> std::result::Result<
            tonic::Response<super::GetSimulatorResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/GetSimulator",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "GetSimulator",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn list_clients(
            &mut self,
            request: impl tonic::IntoRequest<super::ListClientsRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ListClientsResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/ListClients",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "ListClients",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn arm_fault(
            &mut self,
            request: impl tonic::IntoRequest<super::ArmFaultRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ArmFaultResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/ArmFault",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "ArmFault",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn clear_faults(
            &mut self,
            request: impl tonic::IntoRequest<super::ClearFaultsRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ClearFaultsResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/ClearFaults",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "ClearFaults",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn configure(
            &mut self,
            request: impl tonic::IntoRequest<super::ConfigureRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ConfigureResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/Configure",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "Configure",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn drop_clients(
            &mut self,
            request: impl tonic::IntoRequest<super::DropClientsRequest>,
        ) -> std::result::Result<
            tonic::Response<super::DropClientsResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/DropClients",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "DropClients",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn reset_port(
            &mut self,
            request: impl tonic::IntoRequest<super::ResetPortRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ResetPortResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/ResetPort",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "ResetPort",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn send_notice(
            &mut self,
            request: impl tonic::IntoRequest<super::SendNoticeRequest>,
        ) -> std::result::Result<
            tonic::Response<super::SendNoticeResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/SendNotice",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "SendNotice",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn start_storm(
            &mut self,
            request: impl tonic::IntoRequest<super::StartStormRequest>,
        ) -> std::result::Result<
            tonic::Response<super::StartStormResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/StartStorm",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "StartStorm",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn start_restart(
            &mut self,
            request: impl tonic::IntoRequest<super::StartRestartRequest>,
        ) -> std::result::Result<
            tonic::Response<super::StartRestartResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/StartRestart",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "StartRestart",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn stop_script(
            &mut self,
            request: impl tonic::IntoRequest<super::StopScriptRequest>,
        ) -> std::result::Result<
            tonic::Response<super::StopScriptResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/StopScript",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "StopScript",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn hold_client_id(
            &mut self,
            request: impl tonic::IntoRequest<super::HoldClientIdRequest>,
        ) -> std::result::Result<
            tonic::Response<super::HoldClientIdResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/HoldClientId",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "HoldClientId",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn set_mute(
            &mut self,
            request: impl tonic::IntoRequest<super::SetMuteRequest>,
        ) -> std::result::Result<
            tonic::Response<super::SetMuteResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/SetMute",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("ibgateway.simulator.v1.SimulatorService", "SetMute"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn set_listening(
            &mut self,
            request: impl tonic::IntoRequest<super::SetListeningRequest>,
        ) -> std::result::Result<
            tonic::Response<super::SetListeningResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/ibgateway.simulator.v1.SimulatorService/SetListening",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "ibgateway.simulator.v1.SimulatorService",
                        "SetListening",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
    }
}
