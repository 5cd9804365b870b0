"""Sessions, their events, the nine transitions, and the store's own row."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPGRADE: Final = (
    """
    CREATE TABLE broker_store (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        store_id uuid NOT NULL DEFAULT gen_random_uuid(),
        revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
        retention_horizon bigint NOT NULL DEFAULT 0 CHECK (retention_horizon <= revision + 1),
        epoch bigint NOT NULL DEFAULT 0,
        holder text NOT NULL DEFAULT '',
        held_since timestamptz
    )
    """,
    "INSERT INTO broker_store DEFAULT VALUES",
    """
    CREATE TABLE session_transitions (
        number smallint PRIMARY KEY,
        source varchar(20) NOT NULL,
        target varchar(20) NOT NULL,
        CONSTRAINT session_transitions_source_target_key UNIQUE (source, target)
    )
    """,
    """
    INSERT INTO session_transitions (number, source, target) VALUES
        (1, 'DISCONNECTED', 'CONNECTING'),
        (2, 'CONNECTING', 'CONNECTED'),
        (3, 'CONNECTING', 'FAILED'),
        (4, 'CONNECTING', 'DISCONNECTED'),
        (5, 'CONNECTED', 'RECONNECTING'),
        (6, 'CONNECTED', 'DISCONNECTED'),
        (7, 'RECONNECTING', 'CONNECTED'),
        (8, 'RECONNECTING', 'FAILED'),
        (9, 'RECONNECTING', 'DISCONNECTED')
    """,
    """
    CREATE TABLE gateway_connections (
        session_id uuid PRIMARY KEY,
        client_id integer NOT NULL,
        host varchar(253) NOT NULL,
        port integer NOT NULL
            CONSTRAINT gateway_connections_port_check CHECK (port BETWEEN 1 AND 65535),
        server_version integer,
        connection_time timestamptz,
        disconnection_time timestamptz,
        readonly boolean NOT NULL,
        final_state varchar(20),
        error_count integer NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        gateway_id text NOT NULL,
        owner text NOT NULL,
        labels jsonb NOT NULL DEFAULT '{}',
        requested_client_id integer,
        client_id_policy varchar(20) NOT NULL
            CONSTRAINT gateway_connections_client_id_policy_check
            CHECK (client_id_policy IN ('INCREMENT', 'EXACT')),
        timeout double precision NOT NULL,
        max_attempts integer NOT NULL,
        reconnect_max_attempts integer,
        return_immediately boolean NOT NULL,
        state varchar(20) NOT NULL
            CONSTRAINT gateway_connections_state_check CHECK (state IN (
                'DISCONNECTED', 'CONNECTING', 'CONNECTED', 'RECONNECTING', 'FAILED'
            )),
        state_time timestamptz NOT NULL,
        sequence bigint NOT NULL
            CONSTRAINT gateway_connections_sequence_check CHECK (sequence >= 1),
        revision bigint NOT NULL,
        generation integer NOT NULL,
        attempt integer NOT NULL,
        client_id_moves integer NOT NULL,
        next_attempt_time timestamptz,
        accounts text[] NOT NULL DEFAULT '{}',
        conditions jsonb NOT NULL DEFAULT '[]',
        last_failure jsonb,
        close_reason text,
        epoch bigint NOT NULL,
        CONSTRAINT gateway_connections_final_state_check CHECK (
            final_state IS NOT DISTINCT FROM
                CASE WHEN state IN ('DISCONNECTED', 'FAILED') THEN state END
        ),
        CONSTRAINT gateway_connections_ended_check CHECK (
            (final_state IS NULL) = (disconnection_time IS NULL)
        ),
        CONSTRAINT gateway_connections_failed_check CHECK (
            state <> 'FAILED'
            OR coalesce((last_failure ->> 'code')::integer BETWEEN 1 AND 6, false)
        ),
        CONSTRAINT gateway_connections_connected_check CHECK (
            state <> 'CONNECTED'
            OR (server_version IS NOT NULL AND connection_time IS NOT NULL AND generation >= 1)
        )
    )
    """,
    "CREATE INDEX gateway_connections_client_id_idx ON gateway_connections (client_id)",
    """
    CREATE INDEX gateway_connections_active_idx
    ON gateway_connections (final_state) WHERE final_state IS NULL
    """,
    "CREATE INDEX gateway_connections_created_at_idx ON gateway_connections (created_at)",
    """
    CREATE UNIQUE INDEX gateway_connections_active_client_id_key
    ON gateway_connections (host, port, client_id) WHERE final_state IS NULL
    """,
    """
    CREATE TABLE session_events (
        revision bigint PRIMARY KEY,
        session_id uuid NOT NULL
            CONSTRAINT session_events_session_id_fkey REFERENCES gateway_connections,
        sequence bigint NOT NULL
            CONSTRAINT session_events_sequence_check CHECK (sequence >= 1),
        kind varchar(20) NOT NULL,
        transition_source varchar(20),
        transition_target varchar(20),
        payload jsonb NOT NULL,
        time timestamptz NOT NULL,
        correlation_id uuid NOT NULL,
        epoch bigint NOT NULL,
        CONSTRAINT session_events_session_id_sequence_key UNIQUE (session_id, sequence),
        CONSTRAINT session_events_transition_fkey
            FOREIGN KEY (transition_source, transition_target)
            REFERENCES session_transitions (source, target) MATCH FULL,
        CONSTRAINT session_events_kind_check CHECK (
            (kind = 'transition') = (transition_source IS NOT NULL)
        )
    )
    """,
    "CREATE INDEX session_events_time_idx ON session_events (time)",
    """
    CREATE FUNCTION session_events_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'session_events is history: % is refused', TG_OP
            USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    """
    CREATE FUNCTION session_events_retained() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.revision >= (SELECT retention_horizon FROM broker_store) THEN
            RAISE EXCEPTION 'event % is above the retention horizon', OLD.revision
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END
    $$
    """,
    """
    CREATE TRIGGER session_events_immutable
    BEFORE UPDATE OR TRUNCATE ON session_events
    FOR EACH STATEMENT EXECUTE FUNCTION session_events_immutable()
    """,
    """
    CREATE TRIGGER session_events_retained
    BEFORE DELETE ON session_events
    FOR EACH ROW EXECUTE FUNCTION session_events_retained()
    """,
)

DOWNGRADE: Final = (
    "DROP TABLE session_events",
    "DROP FUNCTION session_events_retained()",
    "DROP FUNCTION session_events_immutable()",
    "DROP TABLE gateway_connections",
    "DROP TABLE session_transitions",
    "DROP TABLE broker_store",
)


def upgrade() -> None:
    """Make everything."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop everything, with what it holds."""
    for statement in DOWNGRADE:
        op.execute(statement)
