"""The tables as they are after all migrations, for ``alembic check``.

The migrations are the truth; what SQLAlchemy cannot compare (checks, triggers) is in
them alone.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

METADATA: Final = sa.MetaData()


def _moment(name: str, *, nullable: bool = True, default: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.TIMESTAMP(timezone=True),
        nullable=nullable,
        server_default=sa.text("now()") if default else None,
    )


BROKER_STORE: Final = sa.Table(
    "broker_store",
    METADATA,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("store_id", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("retention_horizon", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("holder", sa.Text, nullable=False, server_default=""),
    _moment("held_since"),
)

SESSION_TRANSITIONS: Final = sa.Table(
    "session_transitions",
    METADATA,
    sa.Column("number", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("source", sa.String(20), nullable=False),
    sa.Column("target", sa.String(20), nullable=False),
    sa.UniqueConstraint("source", "target", name="session_transitions_source_target_key"),
)

GATEWAY_CONNECTIONS: Final = sa.Table(
    "gateway_connections",
    METADATA,
    sa.Column("session_id", sa.Uuid, primary_key=True),
    sa.Column("client_id", sa.Integer, nullable=False),
    sa.Column("host", sa.String(253), nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("server_version", sa.Integer),
    _moment("connection_time"),
    _moment("disconnection_time"),
    sa.Column("readonly", sa.Boolean, nullable=False),
    sa.Column("final_state", sa.String(20)),
    sa.Column("error_count", sa.Integer, nullable=False, server_default="0"),
    _moment("created_at", nullable=False, default=True),
    _moment("updated_at", nullable=False, default=True),
    sa.Column("gateway_id", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("requested_client_id", sa.Integer),
    sa.Column("client_id_policy", sa.String(20), nullable=False),
    sa.Column("timeout", sa.Double, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("reconnect_max_attempts", sa.Integer),
    sa.Column("return_immediately", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    _moment("state_time", nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("client_id_moves", sa.Integer, nullable=False),
    _moment("next_attempt_time"),
    sa.Column("accounts", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("conditions", pg.JSONB, nullable=False, server_default="[]"),
    sa.Column("last_failure", pg.JSONB),
    sa.Column("close_reason", sa.Text),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("lease_ttl", sa.Double),
    sa.Column("request_id", sa.Uuid),
    sa.Column("request_hash", sa.Text),
    sa.Index("gateway_connections_client_id_idx", "client_id"),
    sa.Index(
        "gateway_connections_active_idx",
        "final_state",
        postgresql_where=sa.text("final_state IS NULL"),
    ),
    sa.Index("gateway_connections_created_at_idx", "created_at"),
    sa.Index(
        "gateway_connections_active_client_id_key",
        "host",
        "port",
        "client_id",
        unique=True,
        postgresql_where=sa.text("final_state IS NULL"),
    ),
    sa.Index(
        "gateway_connections_request_id_key",
        "owner",
        "request_id",
        unique=True,
        postgresql_where=sa.text(
            "request_id IS NOT NULL AND (final_state IS NULL OR generation > 0)"
        ),
    ),
)

SESSION_EVENTS: Final = sa.Table(
    "session_events",
    METADATA,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column(
        "session_id",
        sa.Uuid,
        sa.ForeignKey("gateway_connections.session_id", name="session_events_session_id_fkey"),
        nullable=False,
    ),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("transition_source", sa.String(20)),
    sa.Column("transition_target", sa.String(20)),
    sa.Column("payload", pg.JSONB, nullable=False),
    _moment("time", nullable=False),
    sa.Column("correlation_id", sa.Uuid, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("session_id", "sequence", name="session_events_session_id_sequence_key"),
    sa.ForeignKeyConstraint(
        ["transition_source", "transition_target"],
        ["session_transitions.source", "session_transitions.target"],
        name="session_events_transition_fkey",
        match="FULL",
    ),
    sa.Index("session_events_time_idx", "time"),
)

CLIENT_ID_QUARANTINE: Final = sa.Table(
    "client_id_quarantine",
    METADATA,
    sa.Column("host", sa.String(253), primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("client_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.String(40), nullable=False),
    _moment("quarantine_time", nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)

GATEWAYS: Final = sa.Table(
    "gateways",
    METADATA,
    sa.Column("gateway_id", sa.String(63), primary_key=True),
    sa.Column("drain_actor", sa.String(128)),
    sa.Column("drain_reason", sa.String(256)),
    _moment("drain_time"),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)
