-- Every statement of the store. Values are always parameters; nothing is ever built
-- from input. Each runs alone, as one transaction, unless its comment says otherwise.

-- name: configure
-- Once per connection. To plan append_events costs as much as to run it, and no plan here
-- depends on the values. Not a startup parameter: connection poolers refuse those.
SET plan_cache_mode = force_generic_plan;

-- name: append_events
-- Records events and folds them into their sessions' rows; the general form, for any
-- batch and for repeats. $1 session ids, $2 sequences, $3 kinds, $4 transition sources,
-- $5 transition targets, $6 payloads, $7 times, $8 correlation ids (arrays of one
-- length, in the order of the log), $9 the writer's epoch.
-- An event that is already there keeps its revision. The counter's row lock orders the
-- writers, so revisions are dense and in the order of commits. Where the batch does not
-- continue its session (I4, I5) the event's revision is null, which the table refuses,
-- and with it the whole statement. No row at all: another epoch holds the database.
-- Rows are written in the order of their last events: a session may take the client id, or
-- the request_id, that another gives up by its end earlier in the same batch. (One that
-- moves on to another client id gives up the old one only when that is recorded.)
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[],
        $6::jsonb[], $7::timestamptz[], $8::uuid[]
    ) WITH ORDINALITY AS g (
        session_id, sequence, kind, transition_source, transition_target,
        payload, time, correlation_id, place
    )
), recorded AS MATERIALIZED (
    SELECT e.session_id, e.sequence, e.revision
    FROM session_events AS e
    JOIN given AS g ON e.session_id = g.session_id AND e.sequence = g.sequence
), fresh AS MATERIALIZED (
    SELECT g.*,
        row_number() OVER (ORDER BY g.place) AS nth,
        g.sequence = min(g.sequence) OVER session AS is_first,
        g.sequence = max(g.sequence) OVER session AS is_last,
        min(g.sequence) OVER session AS first_sequence,
        max(g.sequence) OVER session - min(g.sequence) OVER session + 1
            = count(*) OVER session AS is_whole
    FROM given AS g
    WHERE NOT EXISTS (
        SELECT FROM recorded AS r
        WHERE r.session_id = g.session_id AND r.sequence = g.sequence
    )
    WINDOW session AS (PARTITION BY g.session_id)
), counter AS (
    UPDATE broker_store
    SET revision = revision + (SELECT count(*) FROM fresh)
    WHERE epoch = $9
    RETURNING revision - (SELECT count(*) FROM fresh) AS base
), folded AS (
    INSERT INTO gateway_connections AS c (
        session_id, gateway_id, host, port, owner, labels, requested_client_id,
        client_id_policy, readonly, timeout, max_attempts, reconnect_max_attempts,
        return_immediately, request_id, request_hash, created_at,
        state, final_state, client_id, sequence, revision, generation, attempt,
        client_id_moves, error_count, server_version, accounts, conditions,
        next_attempt_time, last_failure, close_reason, connection_time,
        disconnection_time, lease_ttl, state_time, updated_at, epoch
    )
    SELECT
        s.session_id, s.gateway_id, s.host, s.port, s.owner, s.labels, s.requested_client_id,
        s.client_id_policy, s.readonly, s.timeout, s.max_attempts, s.reconnect_max_attempts,
        s.return_immediately, s.request_id, s.request_hash, s.created_at,
        s.state, s.final_state, s.client_id, s.sequence, counter.base + f.nth, s.generation,
        s.attempt, s.client_id_moves, s.error_count, s.server_version, s.accounts,
        s.conditions, s.next_attempt_time, s.last_failure, s.close_reason,
        s.connection_time, s.disconnection_time, s.lease_ttl, s.state_time, s.updated_at, $9
    FROM fresh AS f
    CROSS JOIN counter
    CROSS JOIN jsonb_populate_record(NULL::gateway_connections, f.payload -> 'session') AS s
    WHERE f.is_last
    ORDER BY f.place
    ON CONFLICT (session_id) DO UPDATE SET (
        state, final_state, client_id, sequence, revision, generation, attempt,
        client_id_moves, error_count, server_version, accounts, conditions,
        next_attempt_time, last_failure, close_reason, connection_time,
        disconnection_time, lease_ttl, state_time, updated_at, epoch
    ) = ROW (
        EXCLUDED.state, EXCLUDED.final_state, EXCLUDED.client_id, EXCLUDED.sequence,
        EXCLUDED.revision, EXCLUDED.generation, EXCLUDED.attempt,
        EXCLUDED.client_id_moves, EXCLUDED.error_count, EXCLUDED.server_version,
        EXCLUDED.accounts, EXCLUDED.conditions, EXCLUDED.next_attempt_time,
        EXCLUDED.last_failure, EXCLUDED.close_reason, EXCLUDED.connection_time,
        EXCLUDED.disconnection_time, EXCLUDED.lease_ttl, EXCLUDED.state_time,
        EXCLUDED.updated_at, EXCLUDED.epoch
    )
    WHERE c.final_state IS NULL
        AND EXISTS (
            SELECT FROM fresh AS f
            WHERE f.session_id = c.session_id
                AND f.is_first
                AND f.sequence = c.sequence + 1
                AND coalesce(f.transition_source, c.state) = c.state
        )
    RETURNING c.session_id
), written AS (
    INSERT INTO session_events (
        revision, session_id, sequence, kind, transition_source, transition_target,
        payload, time, correlation_id, epoch
    )
    SELECT
        CASE
            WHEN f.is_whole AND (
                f.first_sequence = 1 OR EXISTS (
                    SELECT FROM gateway_connections AS c WHERE c.session_id = f.session_id
                )
            )
            THEN (
                SELECT counter.base + f.nth FROM folded
                WHERE folded.session_id = f.session_id
            )
        END,
        f.session_id, f.sequence, f.kind, f.transition_source, f.transition_target,
        f.payload, f.time, f.correlation_id, $9
    FROM fresh AS f
    CROSS JOIN counter
    RETURNING session_id, sequence, revision
)
SELECT session_id, sequence, revision FROM written
UNION ALL
SELECT recorded.session_id, recorded.sequence, recorded.revision FROM recorded, counter;

-- name: create_connection
-- The hot path of append_events for one event of sequence 1: the session begins. A
-- repeat violates a unique key. $1 to $9 as there, each a single value.
WITH counter AS (
    UPDATE broker_store SET revision = revision + 1 WHERE epoch = $9 RETURNING revision
), created AS (
    INSERT INTO gateway_connections (
        session_id, gateway_id, host, port, owner, labels, requested_client_id,
        client_id_policy, readonly, timeout, max_attempts, reconnect_max_attempts,
        return_immediately, request_id, request_hash, created_at,
        state, final_state, client_id, sequence, revision, generation, attempt,
        client_id_moves, error_count, server_version, accounts, conditions,
        next_attempt_time, last_failure, close_reason, connection_time,
        disconnection_time, lease_ttl, state_time, updated_at, epoch
    )
    SELECT
        s.session_id, s.gateway_id, s.host, s.port, s.owner, s.labels, s.requested_client_id,
        s.client_id_policy, s.readonly, s.timeout, s.max_attempts, s.reconnect_max_attempts,
        s.return_immediately, s.request_id, s.request_hash, s.created_at,
        s.state, s.final_state, s.client_id, s.sequence, counter.revision, s.generation,
        s.attempt, s.client_id_moves, s.error_count, s.server_version, s.accounts,
        s.conditions, s.next_attempt_time, s.last_failure, s.close_reason,
        s.connection_time, s.disconnection_time, s.lease_ttl, s.state_time, s.updated_at, $9
    FROM counter
    CROSS JOIN jsonb_populate_record(NULL::gateway_connections, $6::jsonb -> 'session') AS s
)
INSERT INTO session_events (
    revision, session_id, sequence, kind, transition_source, transition_target,
    payload, time, correlation_id, epoch
)
SELECT counter.revision, $1::uuid, $2::bigint, $3, $4, $5, $6, $7, $8, $9
FROM counter
RETURNING revision;

-- name: update_connection
-- The hot path of append_events for one later event. Where it does not continue its
-- session, or is a repeat, the revision is null, which the table refuses. $1 to $9 as
-- there, each a single value.
WITH counter AS (
    UPDATE broker_store SET revision = revision + 1 WHERE epoch = $9 RETURNING revision
), updated AS (
    UPDATE gateway_connections AS c
    SET (
        state, final_state, client_id, sequence, revision, generation, attempt,
        client_id_moves, error_count, server_version, accounts, conditions,
        next_attempt_time, last_failure, close_reason, connection_time,
        disconnection_time, lease_ttl, state_time, updated_at, epoch
    ) = ROW (
        s.state, s.final_state, s.client_id, s.sequence, counter.revision, s.generation,
        s.attempt, s.client_id_moves, s.error_count, s.server_version, s.accounts,
        s.conditions, s.next_attempt_time, s.last_failure, s.close_reason,
        s.connection_time, s.disconnection_time, s.lease_ttl, s.state_time, s.updated_at, $9
    )
    FROM counter
    CROSS JOIN jsonb_populate_record(NULL::gateway_connections, $6::jsonb -> 'session') AS s
    WHERE c.session_id = $1::uuid
        AND c.sequence = $2::bigint - 1
        AND c.final_state IS NULL
        AND coalesce($4, c.state) = c.state
    RETURNING counter.revision
)
INSERT INTO session_events (
    revision, session_id, sequence, kind, transition_source, transition_target,
    payload, time, correlation_id, epoch
)
SELECT updated.revision, $1::uuid, $2::bigint, $3, $4, $5, $6, $7, $8, $9
FROM counter
LEFT JOIN updated ON true
RETURNING revision;

-- name: get_connection
-- The session with id $1, as its row.
SELECT to_jsonb(c) FROM gateway_connections AS c WHERE c.session_id = $1;

-- name: list_active_connections
-- All sessions that are not final.
SELECT to_jsonb(c)
FROM gateway_connections AS c
WHERE c.final_state IS NULL
ORDER BY c.created_at, c.session_id;

-- name: list_connections
-- One page of the sessions that match: $1 ids, $2 gateway, $3 owner, $4 labels, $5
-- states, each null for any; after ($6, $7), null to begin; at most $8.
SELECT to_jsonb(c)
FROM gateway_connections AS c
WHERE ($1::uuid[] IS NULL OR c.session_id = ANY ($1))
    AND ($2::text IS NULL OR c.gateway_id = $2)
    AND ($3::text IS NULL OR c.owner = $3)
    AND ($4::jsonb IS NULL OR c.labels @> $4)
    AND ($5::text[] IS NULL OR c.state = ANY ($5))
    AND ($6::timestamptz IS NULL OR (c.created_at, c.session_id) > ($6, $7::uuid))
ORDER BY c.created_at, c.session_id
LIMIT $8;

-- name: find_request
-- The session that request_id $2 of owner $1 is bound to, as its row.
SELECT to_jsonb(c)
FROM gateway_connections AS c
WHERE c.owner = $1
    AND c.request_id = $2
    AND (c.final_state IS NULL OR c.generation > 0);

-- name: list_events
-- The retained events of session $1 after sequence $2, at most $3.
SELECT e.revision, e.payload, e.time, e.correlation_id
FROM session_events AS e
WHERE e.session_id = $1
    AND e.sequence > $2
    AND e.revision >= (SELECT s.retention_horizon FROM broker_store AS s)
ORDER BY e.sequence
LIMIT $3;

-- name: read_log
-- The retained events with revisions in ($1, $1 + $2], each beside the horizon and the
-- newest revision; where there is none, these two alone. One statement sees one instant.
SELECT s.retention_horizon, s.revision AS newest,
    e.revision, e.payload, e.time, e.correlation_id
FROM broker_store AS s
LEFT JOIN LATERAL (
    SELECT * FROM session_events AS l
    WHERE l.revision > $1::bigint
        AND l.revision <= $1::bigint + $2::bigint
        AND l.revision >= s.retention_horizon
) AS e ON true
ORDER BY e.revision;

-- name: find_horizon
-- How far the horizon may move, looking at no more than $4 events from revision $3 on: to
-- the first of the newest $2 that is at most $1 seconds old, and past no event that is not
-- there yet; found is whether that ends the search. Revisions are dense, so that a range
-- of them is a bound. The age is computed so that no index on time tempts the planner to
-- read all that is young. Nothing is locked: what it finds stays true, since events never
-- change, grow no younger, and are added at the end only.
WITH begin AS MATERIALIZED (
    SELECT greatest(s.retention_horizon, s.revision + 1 - $2::bigint, $3::bigint, 1) AS first,
        s.revision + 1 AS next
    FROM broker_store AS s
), young AS MATERIALIZED (
    SELECT e.revision
    FROM begin
    CROSS JOIN LATERAL (
        SELECT l.revision FROM session_events AS l
        WHERE l.revision >= begin.first
            AND l.revision < begin.first + $4::bigint
            AND now() - l.time <= make_interval(secs => $1)
        ORDER BY l.revision
        LIMIT 1
    ) AS e
)
SELECT coalesce(young.revision, least(begin.first + $4::bigint, begin.next)) AS horizon,
    young.revision IS NOT NULL OR begin.first + $4::bigint >= begin.next AS found
FROM begin
LEFT JOIN young ON true;

-- name: raise_horizon
-- The retention horizon moves up to $1. Every append waits for this row's lock, which is
-- held for this one write. No epoch is asked for, here and in expire_events: the horizon
-- only moves up, to where every event below it is one that nobody keeps, and only what it
-- has given up is deleted, whoever does it. So commands run beside a broker.
UPDATE broker_store
SET retention_horizon = greatest(retention_horizon, least($1::bigint, revision + 1))
RETURNING retention_horizon;

-- name: expire_events
-- Deletes the events below the horizon of the $2 revisions from $1 on; returns how many,
-- where that has ended, and whether the horizon is beyond. It takes no lock that an append
-- could wait for. It begins where the last one has ended, not at the oldest event: until
-- the table is vacuumed the index leads past everything that was deleted before.
WITH bound AS MATERIALIZED (
    SELECT least($1::bigint + $2::bigint, s.retention_horizon) AS next,
        $1::bigint + $2::bigint < s.retention_horizon AS more
    FROM broker_store AS s
), deleted AS (
    DELETE FROM session_events AS e
    USING bound
    WHERE e.revision >= $1::bigint AND e.revision < bound.next
    RETURNING e.revision
)
SELECT (SELECT count(*) FROM deleted) AS deleted, bound.next, bound.more FROM bound;

-- name: log_extent
-- The revision of the oldest event that is there, and of the newest; in a log without
-- events the oldest is one more than the newest.
SELECT coalesce((SELECT min(e.revision) FROM session_events AS e), s.revision + 1) AS oldest,
    s.revision AS newest
FROM broker_store AS s;

-- name: cleanup_stale_connections
-- Deletes at most $2 final sessions that ended more than $1 seconds ago and whose events
-- are gone. What has ended has begun before, so that the index on created_at bounds the
-- search; and a session of which an event is above the horizon need not be asked for more.
WITH stale AS MATERIALIZED (
    SELECT c.session_id
    FROM gateway_connections AS c
    WHERE c.final_state IS NOT NULL
        AND c.disconnection_time < now() - make_interval(secs => $1)
        AND c.created_at < now() - make_interval(secs => $1)
        AND c.revision < (SELECT s.retention_horizon FROM broker_store AS s)
        AND NOT EXISTS (SELECT FROM session_events AS e WHERE e.session_id = c.session_id)
    ORDER BY c.created_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM gateway_connections AS c
    USING stale
    WHERE c.session_id = stale.session_id
    RETURNING c.session_id
)
SELECT count(*) AS deleted FROM deleted;

-- name: count_stale_connections
-- How many sessions cleanup_stale_connections would delete in all.
SELECT count(*)
FROM gateway_connections AS c
WHERE c.final_state IS NOT NULL
    AND c.disconnection_time < now() - make_interval(secs => $1)
    AND c.created_at < now() - make_interval(secs => $1)
    AND c.revision < (SELECT s.retention_horizon FROM broker_store AS s)
    AND NOT EXISTS (SELECT FROM session_events AS e WHERE e.session_id = c.session_id);

-- name: list_quarantine
-- The client ids in quarantine at host $1, port $2.
SELECT client_id, reason, quarantine_time
FROM client_id_quarantine
WHERE host = $1 AND port = $2
ORDER BY client_id;

-- name: quarantine
-- Client id $3 at host $1, port $2, for reason $4 since $5; a later one replaces an
-- earlier. No row: another epoch than $6 holds the database. The lock makes a take-over
-- wait for this statement, or this one for the take-over, which it then sees.
INSERT INTO client_id_quarantine (host, port, client_id, reason, quarantine_time, epoch)
SELECT $1, $2, $3, $4, $5, s.epoch
FROM broker_store AS s
WHERE s.epoch = $6
FOR SHARE
ON CONFLICT (host, port, client_id) DO UPDATE SET (reason, quarantine_time, epoch) = ROW (
    EXCLUDED.reason, EXCLUDED.quarantine_time, EXCLUDED.epoch
)
RETURNING epoch;

-- name: lift_quarantine
-- Client id $3 at host $1, port $2 is free again, or was. No row: another epoch than $4
-- holds the database; the lock is as in quarantine.
WITH held AS MATERIALIZED (
    SELECT s.epoch FROM broker_store AS s WHERE s.epoch = $4 FOR SHARE
), lifted AS (
    DELETE FROM client_id_quarantine AS q
    USING held
    WHERE q.host = $1 AND q.port = $2 AND q.client_id = $3
)
SELECT held.epoch FROM held;

-- name: get_drain
-- Who drains gateway $1; no row where nobody does.
SELECT drain_actor, drain_reason, drain_time
FROM gateways
WHERE gateway_id = $1 AND drain_time IS NOT NULL;

-- name: set_drain
-- Gateway $1 is drained by $2, for reason $3, since $4; all three are null where nobody
-- drains it. No row: another epoch than $5 holds the database; the lock is as in
-- quarantine.
INSERT INTO gateways (gateway_id, drain_actor, drain_reason, drain_time, epoch)
SELECT $1, $2, $3, $4, s.epoch
FROM broker_store AS s
WHERE s.epoch = $5
FOR SHARE
ON CONFLICT (gateway_id) DO UPDATE SET (drain_actor, drain_reason, drain_time, epoch) = ROW (
    EXCLUDED.drain_actor, EXCLUDED.drain_reason, EXCLUDED.drain_time, EXCLUDED.epoch
)
RETURNING epoch;

-- name: get_revision
-- The revision of the newest event.
SELECT revision FROM broker_store;

-- name: schema_revision
-- Where the migrations stand; null where none ever ran. The table is looked for first,
-- since a statement that names a table that is missing fails.
SELECT to_regclass('alembic_version') IS NOT NULL;

-- name: migration_version
-- The version that Alembic recorded.
SELECT version_num FROM alembic_version;

-- name: lock
-- The lock of the one broker of a database; its connection holds it.
SELECT pg_try_advisory_lock($1);

-- name: lock_holder
-- Who took the database over last, and the server process that holds the lock $1.
SELECT s.holder, s.held_since, s.epoch, l.pid
FROM broker_store AS s
LEFT JOIN pg_locks AS l
    ON l.locktype = 'advisory'
    AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32) + l.objid::bigint = $1;

-- name: take_over
-- A new epoch begins; $1 says who took over.
UPDATE broker_store
SET epoch = epoch + 1, holder = $1, held_since = now()
RETURNING store_id, epoch;

-- name: current_epoch
-- Whose turn it is, to see on return whether another broker was there meanwhile.
SELECT epoch FROM broker_store;

-- name: server_state
-- What a server is like, for whoever looks without taking it over: its clock, whether it takes
-- writes, from us too, and which of our tables there are.
SELECT clock_timestamp() AS now,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS is_read_only,
    CASE
        WHEN to_regclass('broker_store') IS NULL
        THEN coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
        ELSE has_table_privilege(to_regclass('broker_store'), 'UPDATE')
    END AS may_write,
    current_user AS username,
    to_regclass('broker_store') IS NOT NULL AS is_ours,
    to_regclass('gateways') IS NOT NULL AS has_gateways;
