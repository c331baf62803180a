-- A commit of results and publications is one statement: a row of this view, whose columns hold the rows of each table as a
-- JSON array of arrays. Its trigger, in an order that foreign keys allow, writes them.
--
-- Each call into SQLite gives the interpreter's lock away and has to get it back, for which a busy event loop may let it wait
-- some milliseconds: one call for a commit, not some twenty, publishes a quarter more (docs/performance.md). A column that
-- JSON cannot hold is the place of its value in `bytes`: where it begins, from 1, and how long it is.
--
-- To read a column of JSON takes a quarter of a microsecond, a third of all that SQLite does. So of the tables with the most
-- rows, what many have alike stands once, as a kind; each row ends with the position of its own. With `LIMIT -1` the kinds are
-- read first, and are not read again for every row.

CREATE TEMP VIEW commits (settled, settled_kinds, interrupted, exchanges, attempts, attempts_kinds, health, changed, events,
                          events_kinds, deliveries, deliveries_kinds, lined, advanced, spent_keys, keys, statistics, bytes)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER write_commit INSTEAD OF INSERT ON commits
BEGIN
    -- What an attempt did to its delivery; nothing if somebody else changed it after the attempt began, unless to what it is
    -- now as well: what was cancelled meanwhile has had one attempt more.
    UPDATE deliveries
    SET state = new_row.state,
        due_at = new_row.due_at,
        attempt_count = new_row.attempt_count,
        step = new_row.step,
        trigger = new_row.trigger,
        finished_at = new_row.finished_at,
        failed_label = new_row.failed_label,
        place = new_row.place
    FROM (
        SELECT json_extract(value, '$[0]') AS seq, json_extract(value, '$[1]') AS due_before,
               json_extract(value, '$[2]') AS due_at, json_extract(value, '$[3]') AS finished_at, kind.*
        FROM json_each(new.settled)
        CROSS JOIN (
            SELECT key AS kind, json_extract(value, '$[0]') AS state, json_extract(value, '$[1]') AS attempt_count,
                   json_extract(value, '$[2]') AS step, json_extract(value, '$[3]') AS trigger,
                   json_extract(value, '$[4]') AS failed_label, json_extract(value, '$[5]') AS place,
                   json_extract(value, '$[6]') AS step_before
            FROM json_each(new.settled_kinds) LIMIT -1) AS kind ON kind.kind = json_extract(value, '$[4]')) AS new_row
    WHERE deliveries.seq = new_row.seq
      AND deliveries.state IN ('pending', new_row.state)
      AND deliveries.due_at = new_row.due_before
      AND deliveries.step = new_row.step_before;

    -- Consecutive interrupted attempts of a delivery are one row: the newest takes the place of the one before. What those of a
    -- batch shared goes with the last of them: who left it since, or has had another attempt, keeps its own.
    DELETE FROM exchanges
    WHERE seq IN (
        SELECT (
            SELECT iif(outcome = 'interrupted' AND error_code IS NOT 'internal_error', exchange, NULL)
            FROM attempts WHERE delivery = interrupted.value ORDER BY seq DESC LIMIT 1)
        FROM json_each(new.interrupted) AS interrupted)
      AND NOT EXISTS (
        SELECT 1 FROM attempts AS other INDEXED BY attempts_of_exchange
        WHERE other.exchange = exchanges.seq
          AND (other.delivery NOT IN (SELECT value FROM json_each(new.interrupted))
               OR other.seq <> (SELECT max(seq) FROM attempts WHERE delivery = other.delivery)));
    DELETE FROM attempts
    WHERE seq IN (
        SELECT (SELECT seq FROM attempts WHERE delivery = interrupted.value ORDER BY seq DESC LIMIT 1)
        FROM json_each(new.interrupted) AS interrupted)
      AND outcome = 'interrupted' AND error_code IS NOT 'internal_error';

    -- What the deliveries of a batch share of their attempts.
    INSERT INTO exchanges (seq, request, response, body)
    SELECT json_extract(value, '$[0]'),
           CAST(substr(new.bytes, json_extract(value, '$[1][0]'), json_extract(value, '$[1][1]')) AS TEXT),
           CAST(substr(new.bytes, json_extract(value, '$[2][0]'), json_extract(value, '$[2][1]')) AS TEXT),
           substr(new.bytes, json_extract(value, '$[3][0]'), json_extract(value, '$[3][1]'))
    FROM json_each(new.exchanges);

    INSERT INTO attempts (delivery, number, at, duration, trigger, outcome, status_code, error_code, error_detail, request,
                          response, body, exchange)
    SELECT json_extract(value, '$[0]'), kind.number, json_extract(value, '$[1]'), json_extract(value, '$[2]'), kind.trigger,
           kind.outcome, kind.status_code, kind.error_code, kind.error_detail,
           CAST(substr(new.bytes, json_extract(value, '$[3][0]'), json_extract(value, '$[3][1]')) AS TEXT),
           kind.response, kind.body, kind.exchange
    FROM json_each(new.attempts)
    CROSS JOIN (
        SELECT key AS kind, json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS trigger,
               json_extract(value, '$[2]') AS outcome, json_extract(value, '$[3]') AS status_code,
               json_extract(value, '$[4]') AS error_code, json_extract(value, '$[5]') AS error_detail,
               CAST(substr(new.bytes, json_extract(value, '$[6][0]'), json_extract(value, '$[6][1]')) AS TEXT) AS response,
               substr(new.bytes, json_extract(value, '$[7][0]'), json_extract(value, '$[7][1]')) AS body,
               json_extract(value, '$[8]') AS exchange
        FROM json_each(new.attempts_kinds) LIMIT -1) AS kind ON kind.kind = json_extract(value, '$[4]');

    INSERT INTO health (subscription, consecutive_failures, last_success_at, last_failure_at, failing_since, enabled_at)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           json_extract(value, '$[4]'), json_extract(value, '$[5]')
    FROM json_each(new.health)
    WHERE true  -- so that what follows is not read as a join (SQLite's "parsing ambiguity" of upserts)
    ON CONFLICT (subscription) DO UPDATE
    SET consecutive_failures = excluded.consecutive_failures, last_success_at = excluded.last_success_at,
        last_failure_at = excluded.last_failure_at, failing_since = excluded.failing_since, enabled_at = excluded.enabled_at;

    -- Changed settings, state or secrets of subscriptions that are not deleted.
    UPDATE subscriptions
    SET settings = substr(new.bytes, json_extract(new_row.value, '$[1][0]'), json_extract(new_row.value, '$[1][1]')),
        sealed = substr(new.bytes, json_extract(new_row.value, '$[2][0]'), json_extract(new_row.value, '$[2][1]')),
        state = json_extract(new_row.value, '$[3]'),
        disabled_reason = json_extract(new_row.value, '$[4]'),
        version = json_extract(new_row.value, '$[5]'),
        updated_at = json_extract(new_row.value, '$[6]')
    FROM json_each(new.changed) AS new_row
    WHERE subscriptions.seq = json_extract(new_row.value, '$[0]') AND subscriptions.deleted_at IS NULL;

    INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, ordering_key, deliveries, digest, chosen)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), kind.tenant, kind.type,
           substr(new.bytes, json_extract(value, '$[2][0]'), json_extract(value, '$[2][1]')),
           kind.accepted_at, kind.occurred_at, kind.ordering_key, kind.deliveries, kind.digest, kind.chosen
    FROM json_each(new.events)
    CROSS JOIN (
        SELECT key AS kind, json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS type,
               json_extract(value, '$[2]') AS accepted_at, json_extract(value, '$[3]') AS occurred_at,
               json_extract(value, '$[4]') AS ordering_key, json_extract(value, '$[5]') AS deliveries,
               substr(new.bytes, json_extract(value, '$[6][0]'), json_extract(value, '$[6][1]')) AS digest,
               json_extract(value, '$[7]') AS chosen
        FROM json_each(new.events_kinds) LIMIT -1) AS kind ON kind.kind = json_extract(value, '$[3]');

    INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, trigger, created_at, expires_at, place)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           'pending', kind.priority, kind.due_at, kind.trigger, kind.created_at, kind.expires_at, kind.place
    FROM json_each(new.deliveries)
    CROSS JOIN (
        SELECT key AS kind, json_extract(value, '$[0]') AS priority, json_extract(value, '$[1]') AS due_at,
               json_extract(value, '$[2]') AS trigger, json_extract(value, '$[3]') AS created_at,
               json_extract(value, '$[4]') AS expires_at, json_extract(value, '$[5]') AS place
        FROM json_each(new.deliveries_kinds) LIMIT -1) AS kind ON kind.kind = json_extract(value, '$[4]');

    -- With fifo, the turns of new deliveries.
    UPDATE deliveries
    SET line = json_extract(new_row.value, '$[1]'), turn = json_extract(new_row.value, '$[2]')
    FROM json_each(new.lined) AS new_row
    WHERE deliveries.seq = json_extract(new_row.value, '$[0]');

    -- With fifo, who leads a line whose head has ended: the next one, also if it has just come.
    UPDATE deliveries
    SET place = 0
    WHERE seq IN (
        SELECT (
            SELECT seq FROM deliveries INDEXED BY deliveries_in_line
            WHERE state = 'pending' AND line IS NOT NULL AND subscription = json_extract(advanced.value, '$[0]')
              AND line = json_extract(advanced.value, '$[1]')
            ORDER BY turn LIMIT 1)
        FROM json_each(new.advanced) AS advanced);

    -- Idempotency keys whose time is over make room for their next use.
    DELETE FROM idempotency_keys
    WHERE created_at <= (SELECT json_extract(value, '$[4]') FROM json_each(new.spent_keys) LIMIT 1)
      AND (tenant, method, path, key) IN (
          SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                 json_extract(value, '$[3]')
          FROM json_each(new.spent_keys));

    INSERT INTO idempotency_keys (tenant, method, path, key, digest, status, answer, created_at)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           substr(new.bytes, json_extract(value, '$[4][0]'), json_extract(value, '$[4][1]')), json_extract(value, '$[5]'),
           substr(new.bytes, json_extract(value, '$[6][0]'), json_extract(value, '$[6][1]')), json_extract(value, '$[7]')
    FROM json_each(new.keys);

    INSERT INTO statistics (subscription, hour, state, label, status_code, error_code, bucket, count)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]'), json_extract(value, '$[7]')
    FROM json_each(new.statistics)
    WHERE true
    ON CONFLICT DO UPDATE SET count = count + excluded.count;
END;
