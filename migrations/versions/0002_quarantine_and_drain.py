"""Client ids that may still be held at a Gateway, and gateways that an operator drains."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE: Final = (
    """
    CREATE TABLE client_id_quarantine (
        host varchar(253) NOT NULL,
        port integer NOT NULL
            CONSTRAINT client_id_quarantine_port_check CHECK (port BETWEEN 1 AND 65535),
        client_id integer NOT NULL
            CONSTRAINT client_id_quarantine_client_id_check CHECK (client_id BETWEEN 1 AND 9999),
        reason varchar(40) NOT NULL,
        quarantine_time timestamptz NOT NULL,
        epoch bigint NOT NULL,
        PRIMARY KEY (host, port, client_id)
    )
    """,
    """
    CREATE TABLE gateways (
        gateway_id varchar(63) PRIMARY KEY,
        drain_actor varchar(128),
        drain_reason varchar(256),
        drain_time timestamptz,
        epoch bigint NOT NULL,
        CONSTRAINT gateways_drain_check CHECK (
            num_nulls(drain_actor, drain_reason, drain_time) IN (0, 3)
        )
    )
    """,
)

DOWNGRADE: Final = (
    "DROP TABLE gateways",
    "DROP TABLE client_id_quarantine",
)


def upgrade() -> None:
    """Make both tables; nothing that exists is touched."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop both, with what they hold; sessions and events stay."""
    for statement in DOWNGRADE:
        op.execute(statement)
