# syntax=docker/dockerfile:1
# The broker as an image: `make image`. docs/how-to/deploy.md says how to run it.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
WORKDIR /src
COPY deploy/install.sh deploy/
COPY requirements/build.txt requirements/run.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY clients/python/pyproject.toml clients/python/README.md clients/python/
COPY clients/python/ibgateway clients/python/ibgateway
COPY migrations migrations
COPY broker broker
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip deploy/install.sh /opt/gateway-broker

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gateway-broker" \
      org.opencontainers.image.description="Owns the connections to IB Gateway and brokers them over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The embedded PostgreSQL wants a name for its user, so a bare number is not enough.
RUN groupadd --gid 10001 broker \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
        --home-dir /var/lib/gateway-broker --shell /usr/sbin/nologin broker \
    && install --directory --owner=broker --group=broker --mode=0700 /var/lib/gateway-broker
COPY --from=build /opt/gateway-broker /opt/gateway-broker
# Inside a container loopback is nobody's. Beyond it the broker starts only with TLS and tokens or
# client certificates, or with GATEWAY_BROKER_INSECURE_NO_AUTH=true where the network keeps
# strangers out.
ENV PATH=/opt/gateway-broker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_BROKER_DATA_DIR=/var/lib/gateway-broker \
    GATEWAY_BROKER_GRPC_LISTEN=0.0.0.0:50051 \
    GATEWAY_BROKER_HTTP_LISTEN=0.0.0.0:8080 \
    GATEWAY_BROKER_METRICS_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/gateway-broker
VOLUME /var/lib/gateway-broker
EXPOSE 50051 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["gateway-broker", "health"]
ENTRYPOINT ["gateway-broker"]
CMD ["serve"]
