"""How long a session's lease lasts, and the request that an open can be repeated with."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE: Final = (
    """
    ALTER TABLE gateway_connections
        ADD COLUMN lease_ttl double precision
            CONSTRAINT gateway_connections_lease_ttl_check CHECK (lease_ttl > 0),
        ADD COLUMN request_id uuid,
        ADD COLUMN request_hash text,
        ADD CONSTRAINT gateway_connections_request_check CHECK (
            (request_id IS NULL) = (request_hash IS NULL)
        )
    """,
    # After an end without ever having been CONNECTED a request_id is free again.
    """
    CREATE UNIQUE INDEX gateway_connections_request_id_key
    ON gateway_connections (owner, request_id)
    WHERE request_id IS NOT NULL AND (final_state IS NULL OR generation > 0)
    """,
)

DOWNGRADE: Final = (
    "DROP INDEX gateway_connections_request_id_key",
    """
    ALTER TABLE gateway_connections
        DROP CONSTRAINT gateway_connections_request_check,
        DROP COLUMN request_hash,
        DROP COLUMN request_id,
        DROP COLUMN lease_ttl
    """,
)


def upgrade() -> None:
    """Add the columns, null in every row that exists, and what keeps a request_id unique."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop them, with what they hold; all else of the sessions stays."""
    for statement in DOWNGRADE:
        op.execute(statement)
