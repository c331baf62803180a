-- commit
-- Results, publications, and what they entail: see commit.sql.
INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- insert_subscription
-- A new subscription.
INSERT INTO subscriptions (seq, id, tenant, settings, sealed, state, disabled_reason, version, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- delete_subscription
-- The subscription goes; its history stays readable. Its secrets go at once.
UPDATE subscriptions
SET deleted_at = ?, updated_at = ?, sealed = x''
WHERE seq = ? AND deleted_at IS NULL;

-- subscriptions
-- All that are not deleted, with their counters.
SELECT s.seq, s.id, s.tenant, s.settings, s.sealed, s.state, s.disabled_reason, s.version, s.created_at, s.updated_at,
       h.consecutive_failures, h.last_success_at, h.last_failure_at, h.failing_since, h.enabled_at
FROM subscriptions AS s
LEFT JOIN health AS h ON h.subscription = s.seq
WHERE s.deleted_at IS NULL
ORDER BY s.seq;

-- last_keys
-- The newest key of what commits number, also one that attempts alone name; turns in lines are numbered with the deliveries.
SELECT (SELECT coalesce(max(seq), 0) FROM subscriptions WHERE seq < 1 << 62) AS subscriptions,
       (SELECT coalesce(max(seq), 0) FROM events WHERE seq < 1 << 62) AS events,
       max((SELECT coalesce(max(seq), 0) FROM deliveries WHERE seq < 1 << 62),
           (SELECT coalesce(max(newest), 0) FROM replays WHERE newest < 1 << 62),
           coalesce((SELECT value FROM meta WHERE name = 'last_turn' AND typeof(value) = 'integer' AND value < 1 << 62), 0)
          ) AS deliveries,
       max((SELECT coalesce(max(seq), 0) FROM exchanges WHERE seq < 1 << 62),
           (SELECT coalesce(max(exchange), 0) FROM attempts WHERE exchange < 1 << 62)) AS exchanges;

-- heads
-- The first pending delivery of each lane and priority: two index seeks each, however many rows wait.
SELECT s.seq AS subscription, p.value AS priority, d.due_at, d.seq
FROM subscriptions AS s
CROSS JOIN json_each('[0, 1, 2]') AS p
CROSS JOIN deliveries AS d ON d.seq = (
    SELECT seq FROM deliveries INDEXED BY deliveries_due
    WHERE state = 'pending' AND subscription = s.seq AND place = 0 AND priority = p.value
    ORDER BY due_at, seq LIMIT 1)
WHERE s.deleted_at IS NULL AND s.state = 'active';

-- refill
-- The rows of a lane and priority from a mark on.
SELECT {delivery}
FROM deliveries INDEXED BY deliveries_due
WHERE state = 'pending' AND subscription = ? AND place = 0 AND priority = ? AND (due_at, seq) >= (?, ?)
ORDER BY due_at, seq
LIMIT ?;

-- gatherers
-- Subscriptions with deliveries that wait to be put into a batch: a seek each.
SELECT s.seq AS subscription
FROM subscriptions AS s
WHERE s.deleted_at IS NULL
  AND EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND subscription = s.seq AND place = 1);

-- gathered
-- What waits, and is due, to be put into a batch, with its bytes; one whose event is gone fails in its turn.
SELECT {d.delivery}, coalesce(length(e.data), 0) AS size
FROM deliveries AS d INDEXED BY deliveries_due
LEFT JOIN events AS e ON e.seq = d.event
WHERE d.state = 'pending' AND d.subscription = ? AND d.place = 1 AND d.priority = ? AND d.due_at <= ?
ORDER BY d.due_at, d.seq
LIMIT ?;

-- next_gathered
-- When the next of what waits for a batch will be due; a text, which is more than any number, is no time.
SELECT due_at FROM deliveries INDEXED BY deliveries_due
WHERE state = 'pending' AND subscription = ? AND place = 1 AND priority = ? AND due_at > ? AND due_at < ''
ORDER BY due_at LIMIT 1;

-- compose
-- Deliveries find their places in batches, or go by themselves: (seq, place, batch).
UPDATE deliveries SET place = json_extract(new_row.value, '$[1]'), batch = json_extract(new_row.value, '$[2]')
FROM json_each(?) AS new_row
WHERE deliveries.seq = json_extract(new_row.value, '$[0]') AND deliveries.state = 'pending';

-- members
-- What still goes with these batches.
SELECT {d.delivery}
FROM json_each(?) AS wanted
CROSS JOIN deliveries AS d INDEXED BY deliveries_of_batch ON d.batch = wanted.value
WHERE d.state = 'pending';

-- promote
-- The head of a batch has left it: the next one leads, if that is not settled already.
UPDATE deliveries SET place = 0
WHERE seq = (
    SELECT min(seq) FROM deliveries INDEXED BY deliveries_of_batch
    WHERE batch = :batch AND state = 'pending' AND subscription = :subscription)
  AND NOT EXISTS (
      SELECT 1 FROM deliveries INDEXED BY deliveries_of_batch
      WHERE batch = :batch AND state = 'pending' AND subscription = :subscription AND place = 0)
RETURNING {delivery};

-- standing_lines
-- Those of the given (subscription, line) in which somebody stands.
SELECT json_extract(wanted.value, '$[0]') AS subscription, json_extract(wanted.value, '$[1]') AS line
FROM json_each(?) AS wanted
WHERE EXISTS (
    SELECT 1 FROM deliveries INDEXED BY deliveries_in_line
    WHERE state = 'pending' AND line IS NOT NULL AND subscription = json_extract(wanted.value, '$[0]')
      AND line = json_extract(wanted.value, '$[1]'));

-- heads_of_lines
-- Who leads each of the given (subscription, line).
SELECT {d.delivery}
FROM json_each(?) AS wanted
CROSS JOIN deliveries AS d ON d.seq = (
    SELECT seq FROM deliveries INDEXED BY deliveries_in_line
    WHERE state = 'pending' AND line IS NOT NULL AND subscription = json_extract(wanted.value, '$[0]')
      AND line = json_extract(wanted.value, '$[1]')
    ORDER BY turn LIMIT 1);

-- next_in_line
-- The head of a line has left it: the next one leads, if that is not settled already.
UPDATE deliveries SET place = 0
WHERE seq = (
    SELECT seq FROM deliveries INDEXED BY deliveries_in_line
    WHERE state = 'pending' AND line IS NOT NULL AND subscription = ? AND line = ? ORDER BY turn LIMIT 1)
  AND place <> 0
RETURNING {delivery};

-- line_up
-- Deliveries get their turns in lines: (seq, line, turn).
UPDATE deliveries SET line = json_extract(new_row.value, '$[1]'), turn = json_extract(new_row.value, '$[2]')
FROM json_each(?) AS new_row
WHERE deliveries.seq = json_extract(new_row.value, '$[0]');

-- turn
-- The turn of one delivery in its line.
SELECT turn FROM deliveries WHERE seq = ?;

-- ordering_keys
-- The ordering keys of events.
SELECT seq, ordering_key FROM events WHERE seq IN (SELECT value FROM json_each(?));

-- delivery
-- One delivery as the engine sees it.
SELECT {delivery}
FROM deliveries
WHERE id = ? AND (? IS NULL OR (SELECT tenant FROM events WHERE seq = deliveries.event) = ?);

-- events_by_seq
-- The events of a turn, in one go.
SELECT e.seq, e.id, e.tenant, e.type, e.data, e.accepted_at, e.occurred_at, e.ordering_key
FROM json_each(?) AS wanted
CROSS JOIN events AS e ON e.seq = wanted.value;

-- names_of_deliveries
-- What deliveries are called by, for the live stream.
SELECT d.seq, d.event, d.subscription, d.tenant, d.type
FROM json_each(?) AS wanted
CROSS JOIN deliveries_shown AS d ON d.seq = wanted.value;

-- known_events
-- Which of the given (id, tenant) pairs were accepted before.
SELECT e.id, e.tenant, e.type, e.accepted_at, e.occurred_at, e.ordering_key, e.deliveries, e.digest
FROM json_each(?) AS wanted
CROSS JOIN events AS e ON e.id = json_extract(wanted.value, '$[0]') AND e.tenant = json_extract(wanted.value, '$[1]');

-- known_keys
-- Which of the given (tenant, method, path, key) were used since a time.
SELECT k.tenant, k.method, k.path, k.key, k.digest, k.status, k.answer
FROM json_each(?) AS wanted
CROSS JOIN idempotency_keys AS k
    ON k.tenant = json_extract(wanted.value, '$[0]') AND k.method = json_extract(wanted.value, '$[1]')
    AND k.path = json_extract(wanted.value, '$[2]') AND k.key = json_extract(wanted.value, '$[3]')
WHERE k.created_at > ?;

-- retry_delivery
-- By hand: due now, with its whole schedule again. An attempt that ended while the delivery was cancelled may not be counted.
UPDATE deliveries
SET state = 'pending', due_at = ?, step = 0, trigger = 'manual', finished_at = NULL, failed_label = NULL, expires_at = NULL,
    place = ?, batch = NULL, line = ?, turn = ?,
    attempt_count = max(attempt_count, (
        SELECT coalesce(max(number), 0) FROM attempts WHERE delivery = deliveries.seq AND outcome <> 'interrupted'))
WHERE seq = ? AND state IN ('pending', 'failed', 'cancelled')
RETURNING attempt_count;

-- cancel_delivery
-- By hand.
UPDATE deliveries SET state = 'cancelled', finished_at = ? WHERE seq = ? AND state = 'pending';

-- waiting_for_retry
-- What waited for a retry when its subscription was enabled, and may go at once.
SELECT {delivery}
FROM deliveries INDEXED BY deliveries_due
WHERE state = 'pending' AND subscription = ? AND place = 0 AND priority = ? AND due_at > ? AND step > 0
  AND NOT EXISTS (SELECT 1 FROM attempts WHERE delivery = deliveries.seq AND at >= ?)
ORDER BY due_at, seq
LIMIT ?;

-- bring_forward
-- A retry that need not wait any longer.
UPDATE deliveries SET due_at = ? WHERE seq = ? AND state = 'pending';

-- newest_moment
-- The last that was written down of the time: when an event was accepted, an attempt began, or a subscription was enabled.
SELECT max(coalesce((SELECT accepted_at FROM events WHERE seq = (SELECT max(seq) FROM events)), 0),
           coalesce((SELECT at FROM attempts WHERE seq = (SELECT max(seq) FROM attempts)), 0),
           coalesce((SELECT max(enabled_at) FROM health), 0)) AS newest;

-- turn_back
-- What waits by a clock that has gone back since waits as long from now on; a time that a producer chose stays.
UPDATE deliveries SET due_at = :now + iif(old.is_due, 0, max(0, due_at - old.since))
FROM (
    SELECT d.seq, d.step = 0 AND (d.due_at <= d.created_at OR d.trigger = 'manual') AS is_due,
           iif(last.seq <= :known, :before, last.at) AS since
    FROM deliveries AS d
    LEFT JOIN attempts AS last ON last.seq = (SELECT max(seq) FROM attempts WHERE delivery = d.seq)
    WHERE d.state = 'pending' AND d.state <> 'delivered' AND d.due_at > :now
    LIMIT -1  /* so that it is read once, and not for every use of a column */) AS old
WHERE deliveries.seq = old.seq AND (old.is_due OR old.since > :now)
  AND deliveries.seq NOT IN (SELECT value FROM json_each(:taken))
  AND (batch IS NULL OR batch NOT IN (SELECT value FROM json_each(:batches)));

-- turn_back_enabling
-- Subscriptions that were enabled by a clock that has gone back since were enabled now.
UPDATE meta SET value = min(value, ?) WHERE name GLOB ?;

-- newest_attempt
-- The key of the newest attempt.
SELECT coalesce(max(seq), 0) FROM attempts;

-- stateless
-- Deliveries whose state is none of the four, by way of the gaps between these in the index. Quoted, it cannot be read as one.
SELECT d.seq, d.id, d.event, d.subscription, quote(d.state), d.priority, d.due_at, d.attempt_count, d.step, d.trigger, d.created_at,
       d.expires_at, d.finished_at, d.failed_label, d.place, d.batch, d.line
FROM deliveries AS d
WHERE d.seq IN (
    SELECT seq FROM deliveries INDEXED BY deliveries_in_state WHERE state <> 'delivered' AND state < 'cancelled'
    UNION ALL
    SELECT seq FROM deliveries INDEXED BY deliveries_in_state WHERE state <> 'delivered' AND state > 'cancelled' AND state < 'failed'
    UNION ALL
    SELECT seq FROM deliveries INDEXED BY deliveries_in_state WHERE state <> 'delivered' AND state > 'failed' AND state < 'pending'
    UNION ALL
    SELECT seq FROM deliveries INDEXED BY deliveries_in_state WHERE state <> 'delivered' AND state > 'pending');

-- pending_after
-- The next keys of pending deliveries.
SELECT seq FROM deliveries INDEXED BY deliveries_in_state WHERE state = 'pending' AND state <> 'delivered' AND seq > ? ORDER BY seq LIMIT ?;

-- strays
-- Of the pending deliveries with these keys, those to which nobody would come; with whether they follow where nobody leads.
WITH looked_at AS (
    SELECT {d.delivery},
           d.place = 2 AND CASE
               WHEN d.batch IS NOT NULL THEN NOT EXISTS (
                   SELECT 1 FROM deliveries INDEXED BY deliveries_of_batch
                   WHERE batch = d.batch AND subscription = d.subscription AND state = 'pending' AND place = 0)
               WHEN d.line IS NOT NULL THEN d.seq = (
                   SELECT seq FROM deliveries INDEXED BY deliveries_in_line
                   WHERE state = 'pending' AND line IS NOT NULL AND subscription = d.subscription AND line = d.line
                   ORDER BY turn LIMIT 1)
                   AND NOT EXISTS (
                       SELECT 1 FROM deliveries INDEXED BY deliveries_in_line
                       WHERE state = 'pending' AND line IS NOT NULL AND subscription = d.subscription AND line = d.line
                         AND place = 0)
               END AS is_led_by_nobody,
           d.place NOT IN (0, 1, 2) OR d.priority NOT IN (0, 1, 2) OR typeof(d.due_at) <> 'integer' OR d.due_at >= :never
               OR s.seq IS NULL OR (d.place = 2 AND d.batch IS NULL AND d.line IS NULL)
               OR (d.line IS NOT NULL AND (d.batch IS NOT NULL OR d.place = 1)) AS is_nowhere
    FROM json_each(:keys) AS key
    CROSS JOIN deliveries AS d ON d.seq = key.value
    LEFT JOIN subscriptions AS s ON s.seq = d.subscription
    WHERE s.deleted_at IS NULL)
SELECT * FROM looked_at WHERE is_led_by_nobody OR is_nowhere;

-- park
-- Deliveries whose rows cannot be read; where they stood, so that the next can lead.
UPDATE deliveries SET state = 'failed', finished_at = ?, failed_label = ?
WHERE seq IN (SELECT value FROM json_each(?)) AND state NOT IN ('delivered', 'failed', 'cancelled')
RETURNING subscription, batch, line, seq, id, event, attempt_count, created_at;

-- cancel_some
-- Some of what a deleted subscription leaves behind.
UPDATE deliveries SET state = 'cancelled', finished_at = ?
WHERE seq IN (SELECT seq FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND subscription = ? LIMIT ?);

-- expiring
-- Deliveries whose time is over, but for those in flight: their attempts' ends decide.
SELECT {d.delivery}
FROM deliveries AS d INDEXED BY deliveries_expiring
CROSS JOIN subscriptions AS s ON s.seq = d.subscription
WHERE d.state = 'pending' AND d.expires_at <= :now AND s.deleted_at IS NULL
  AND d.seq NOT IN (SELECT value FROM json_each(:taken))
  AND (d.batch IS NULL OR d.place = 1 OR d.batch NOT IN (SELECT value FROM json_each(:batches)))
LIMIT :limit;

-- finished_before
-- Some deliveries that finished before a time, with their events.
SELECT seq, event FROM deliveries INDEXED BY deliveries_finished WHERE finished_at < ? ORDER BY finished_at, seq LIMIT ?;

-- prune_attempts
-- The attempts of these deliveries.
DELETE FROM attempts WHERE delivery IN (SELECT value FROM json_each(?));

-- exchanges_of
-- What the attempts of these deliveries share with others.
SELECT exchange FROM attempts WHERE delivery IN (SELECT value FROM json_each(?)) AND exchange IS NOT NULL;

-- prune_exchanges
-- Of these, what no attempt refers to any more.
DELETE FROM exchanges
WHERE seq IN (SELECT value FROM json_each(?))
  AND NOT EXISTS (SELECT 1 FROM attempts INDEXED BY attempts_of_exchange WHERE exchange = exchanges.seq);

-- prune_deliveries
-- These deliveries, once their attempts are gone.
DELETE FROM deliveries WHERE seq IN (SELECT value FROM json_each(?));

-- prune_events
-- Of these events, those that no delivery needs any more.
DELETE FROM events
WHERE seq IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = events.seq);

-- prune_unwanted_events
-- Events from before a time that nobody wanted, nor had replayed since.
DELETE FROM events WHERE seq IN (
    SELECT e.seq FROM events AS e INDEXED BY events_unwanted
    WHERE e.deliveries = 0 AND e.accepted_at < ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = e.seq)
    ORDER BY e.accepted_at LIMIT ?);

-- prune_keys
-- Idempotency keys whose time is over.
DELETE FROM idempotency_keys WHERE (tenant, method, path, key) IN (
    SELECT tenant, method, path, key FROM idempotency_keys WHERE created_at <= ? ORDER BY created_at LIMIT ?);

-- prune_statistics
-- Statistics of hours whose retention is over.
DELETE FROM statistics WHERE (subscription, hour, state, label, status_code, error_code, bucket) IN (
    SELECT subscription, hour, state, label, status_code, error_code, bucket
    FROM statistics INDEXED BY statistics_by_hour WHERE hour < ? ORDER BY hour LIMIT ?);

-- forgotten
-- Subscriptions deleted before a time, of which nothing else is left. The newest of all stays: no other is to get its key.
SELECT s.seq FROM subscriptions AS s INDEXED BY subscriptions_deleted
WHERE s.deleted_at < ? AND s.seq < (SELECT max(seq) FROM subscriptions)
  AND NOT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_of_subscription WHERE subscription = s.seq)
  AND NOT EXISTS (SELECT 1 FROM statistics WHERE subscription = s.seq)
  AND NOT EXISTS (SELECT 1 FROM replays WHERE subscription = s.seq)
LIMIT ?;

-- prune_health
-- The counters of these subscriptions.
DELETE FROM health WHERE subscription IN (SELECT value FROM json_each(?));

-- prune_access_tokens
-- What their endpoints were asked with.
DELETE FROM access_tokens WHERE subscription IN (SELECT value FROM json_each(?));

-- prune_subscriptions
-- These subscriptions, once nothing refers to them.
DELETE FROM subscriptions WHERE seq IN (SELECT value FROM json_each(?));

-- meta
-- A value that belongs to the file as a whole.
SELECT value FROM meta WHERE name = ?;

-- set_meta
-- Keep such a value.
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- drop_meta
-- Forget such a value.
DELETE FROM meta WHERE name = ?;

-- sealed_otherwise
-- What is encrypted, and begins otherwise than what the present key seals; with what each is bound to.
WITH sealed (kind, key, context, value) AS (
    SELECT 'subscription', seq, id, sealed FROM subscriptions WHERE deleted_at IS NULL
    UNION ALL
    SELECT 'tenant', seq, 'tenant:' || name, sealed FROM tenants WHERE sealed IS NOT NULL
    UNION ALL
    SELECT 'access token', a.subscription, 'access token:' || s.id, a.sealed
    FROM access_tokens AS a CROSS JOIN subscriptions AS s ON s.seq = a.subscription
    UNION ALL
    SELECT 'check value', name, 'check', value FROM meta WHERE name = 'vault_check'
)
SELECT kind, key, context, value FROM sealed WHERE substr(value, 1, 5) IS NOT ?;

-- reseal_subscription
-- The same secrets of a subscription, sealed with another key.
UPDATE subscriptions SET sealed = ? WHERE seq = ?;

-- reseal_tenant
-- The same secrets of a tenant.
UPDATE tenants SET sealed = ? WHERE seq = ?;

-- reseal_access_token
-- The same access token.
UPDATE access_tokens SET sealed = ? WHERE subscription = ?;

-- reseal_check_value
-- What tells whether a key is the right one.
UPDATE meta SET value = ? WHERE name = ?;

-- enabling
-- The subscriptions whose retries are still to be brought forward.
SELECT CAST(substr(name, 10) AS INTEGER) AS subscription, CAST(value AS INTEGER) AS enabled_at
FROM meta WHERE name LIKE 'enabling:%';

-- deletions
-- When subscriptions were deleted.
SELECT seq, deleted_at FROM subscriptions WHERE seq IN (SELECT value FROM json_each(?)) AND deleted_at IS NOT NULL;

-- cancelling
-- The deleted subscriptions that may still have pending rows.
SELECT CAST(substr(name, 12) AS INTEGER) AS subscription, CAST(value AS INTEGER) AS deleted_at
FROM meta WHERE name LIKE 'cancelling:%';

-- range_of_events
-- The keys among which the events of a time are; what is newer than every span is looked at itself.
WITH kept (first, before) AS (
    SELECT iif(:since IS NULL, 0, coalesce(
               (SELECT min(first) FROM spans WHERE kind = 'events' AND latest >= :since),
               (SELECT max(last) + 1 FROM spans WHERE kind = 'events'), 0)),
           iif(:until IS NULL OR EXISTS (
                   SELECT 1 FROM events
                   WHERE seq > coalesce((SELECT max(last) FROM spans WHERE kind = 'events'), 0) AND accepted_at < :until),
               :before,
               min(:before, coalesce((SELECT max(last) + 1 FROM spans WHERE kind = 'events' AND earliest < :until), 0)))
)
SELECT first, before, coalesce((SELECT max(seq) FROM events WHERE seq < before), 0) AS newest FROM kept;

-- range_of_deliveries
-- The same of deliveries.
WITH kept (first, before) AS (
    SELECT iif(:since IS NULL, 0, coalesce(
               (SELECT min(first) FROM spans WHERE kind = 'deliveries' AND latest >= :since),
               (SELECT max(last) + 1 FROM spans WHERE kind = 'deliveries'), 0)),
           iif(:until IS NULL OR EXISTS (
                   SELECT 1 FROM deliveries
                   WHERE seq > coalesce((SELECT max(last) FROM spans WHERE kind = 'deliveries'), 0) AND created_at < :until),
               :before,
               min(:before, coalesce((SELECT max(last) + 1 FROM spans WHERE kind = 'deliveries' AND earliest < :until), 0)))
)
SELECT first, before, coalesce((SELECT max(seq) FROM deliveries WHERE seq < before), 0) AS newest FROM kept;

-- next_events_to_span
-- The events behind the last span, up to a number: their first and last key, their earliest and latest time, how many they are.
SELECT min(seq), max(seq), min(accepted_at), max(accepted_at), count(*)
FROM (SELECT seq, accepted_at FROM events
      WHERE seq > coalesce((SELECT max(last) FROM spans WHERE kind = 'events'), 0) ORDER BY seq LIMIT ?);

-- next_deliveries_to_span
-- The same of deliveries.
SELECT min(seq), max(seq), min(created_at), max(created_at), count(*)
FROM (SELECT seq, created_at FROM deliveries
      WHERE seq > coalesce((SELECT max(last) FROM spans WHERE kind = 'deliveries'), 0) ORDER BY seq LIMIT ?);

-- insert_span
-- A span of keys, with the times among their rows.
INSERT INTO spans (kind, first, last, earliest, latest) VALUES (?, ?, ?, ?, ?);

-- prune_spans
-- Spans of which no row is left, and those whose last keys are free: after a restart others may get them.
DELETE FROM spans
WHERE (kind = 'events' AND (last < (SELECT min(seq) FROM events) OR last > coalesce((SELECT max(seq) FROM events), 0)))
   OR (kind = 'deliveries'
       AND (last < (SELECT min(seq) FROM deliveries) OR last > coalesce((SELECT max(seq) FROM deliveries), 0)));

-- list_events
-- A page of events, newest first.
SELECT seq, id, type, tenant, accepted_at, occurred_at, ordering_key, deliveries
FROM events
WHERE seq >= :first AND seq < :before AND (:tenant IS NULL OR tenant = :tenant) AND (:type IS NULL OR type = :type)
  AND (:since IS NULL OR accepted_at >= :since) AND (:until IS NULL OR accepted_at < :until)
ORDER BY seq DESC
LIMIT :limit;

-- list_events_of_kinds
-- The same, of some (tenant, type): the newest of each, of which the newest are taken.
SELECT e.seq, e.id, e.type, e.tenant, e.accepted_at, e.occurred_at, e.ordering_key, e.deliveries
FROM json_each(:kinds) AS wanted
CROSS JOIN events AS e ON e.seq IN (
    SELECT seq FROM events INDEXED BY events_of_type
    WHERE tenant = json_extract(wanted.value, '$[0]') AND type = json_extract(wanted.value, '$[1]')
      AND seq >= :first AND seq < :before
      AND (:since IS NULL OR accepted_at >= :since) AND (:until IS NULL OR accepted_at < :until)
    ORDER BY seq DESC LIMIT :limit)
ORDER BY e.seq DESC
LIMIT :limit;

-- types_of_tenant
-- The types of a tenant's events: a seek each, however many events there are.
WITH RECURSIVE found (type) AS (
    SELECT min(type) FROM events INDEXED BY events_of_type WHERE tenant = :tenant
    UNION ALL
    SELECT (SELECT min(type) FROM events INDEXED BY events_of_type WHERE tenant = :tenant AND type > found.type)
    FROM found WHERE found.type IS NOT NULL
)
SELECT type FROM found WHERE type IS NOT NULL;

-- tenants_with_events
-- The tenants that have events, in the same way.
WITH RECURSIVE found (tenant) AS (
    SELECT min(tenant) FROM events INDEXED BY events_of_type
    UNION ALL
    SELECT (SELECT min(tenant) FROM events INDEXED BY events_of_type WHERE tenant > found.tenant)
    FROM found WHERE found.tenant IS NOT NULL
)
SELECT tenant FROM found WHERE tenant IS NOT NULL;

-- show_event
-- One event; the newest where several tenants use the id.
SELECT seq, id, tenant, type, data, accepted_at, occurred_at, ordering_key, deliveries
FROM events
WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY seq DESC
LIMIT 1;

-- event_keys
-- The events with an id, each of another tenant.
SELECT seq FROM events WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant);

-- deliveries_of_event
-- Where one event went.
SELECT * FROM deliveries_shown WHERE event_seq = ? ORDER BY seq;

-- list_deliveries
-- A page of deliveries, newest first.
SELECT * FROM deliveries_shown
WHERE seq >= :first AND seq < :before AND (:tenant IS NULL OR tenant = :tenant) AND (:state IS NULL OR state = :state)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC
LIMIT :limit;

-- list_deliveries_in_state
-- The same, of those that are stored in one state and read as one: however few, by way of their index.
SELECT * FROM deliveries_shown
WHERE stored_state = :stored AND stored_state <> 'delivered' AND seq >= :first AND seq < :before AND state = :state
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC
LIMIT :limit;

-- list_deliveries_of_subscriptions
-- The same, of some subscriptions: the newest of each, of which the newest are taken.
SELECT shown.* FROM json_each(:subscriptions) AS wanted
CROSS JOIN deliveries_shown AS shown ON shown.seq IN (
    SELECT d.seq FROM deliveries AS d INDEXED BY deliveries_of_subscription
    WHERE d.subscription = wanted.value AND d.seq >= :first AND d.seq < :before AND (:stored IS NULL OR d.state = :stored)
      AND (:since IS NULL OR d.created_at >= :since) AND (:until IS NULL OR d.created_at < :until)
    ORDER BY d.seq DESC LIMIT :limit)
WHERE (:tenant IS NULL OR shown.tenant = :tenant) AND (:state IS NULL OR shown.state = :state)
ORDER BY shown.seq DESC
LIMIT :limit;

-- list_deliveries_given_up
-- The same, of those that are stored as failed or cancelled.
SELECT shown.* FROM json_each(:subscriptions) AS wanted
CROSS JOIN deliveries_shown AS shown ON shown.seq IN (
    SELECT d.seq FROM deliveries AS d INDEXED BY deliveries_given_up
    WHERE d.state IN ('failed', 'cancelled') AND d.subscription = wanted.value AND d.seq >= :first AND d.seq < :before
      AND d.state = :stored
      AND (:since IS NULL OR d.created_at >= :since) AND (:until IS NULL OR d.created_at < :until)
    ORDER BY d.seq DESC LIMIT :limit)
WHERE (:tenant IS NULL OR shown.tenant = :tenant) AND (:state IS NULL OR shown.state = :state)
ORDER BY shown.seq DESC
LIMIT :limit;

-- list_deliveries_waiting
-- The same, of those that wait: all of them are looked at, by an index that has another order.
SELECT shown.* FROM json_each(:subscriptions) AS wanted
CROSS JOIN deliveries_shown AS shown ON shown.seq IN (
    SELECT d.seq FROM deliveries AS d INDEXED BY deliveries_due
    WHERE d.state = 'pending' AND d.subscription = wanted.value AND d.seq >= :first AND d.seq < :before
      AND (:since IS NULL OR d.created_at >= :since) AND (:until IS NULL OR d.created_at < :until)
    ORDER BY d.seq DESC LIMIT :limit)
WHERE (:tenant IS NULL OR shown.tenant = :tenant) AND (:state IS NULL OR shown.state = :state)
ORDER BY shown.seq DESC
LIMIT :limit;

-- subscriptions_that_wait
-- The keys of the subscriptions whose pending deliveries read otherwise: as cancelled if they are deleted, else as held.
SELECT s.seq FROM subscriptions AS s
WHERE iif(:deleted, s.deleted_at IS NOT NULL, s.deleted_at IS NULL AND s.state = 'disabled')
  AND EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND subscription = s.seq);

-- subscriptions_of_tenant
-- The keys of a tenant's subscriptions, deleted ones too: their history stays readable.
SELECT seq FROM subscriptions WHERE tenant = :tenant;

-- list_deliveries_of_event
-- The same, of one event.
SELECT * FROM deliveries_shown
WHERE event_seq = :event AND seq < :before AND (:subscription IS NULL OR subscription_seq = :subscription)
  AND (:tenant IS NULL OR tenant = :tenant) AND (:state IS NULL OR state = :state)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC
LIMIT :limit;

-- show_delivery
-- One delivery as it reads.
SELECT * FROM deliveries_shown WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant);

-- attempts_of_delivery
-- The last attempts of a delivery, the newest first.
SELECT a.number, a.at, a.duration, a.trigger, a.outcome, a.status_code, a.error_code, a.error_detail, a.exchange,
       coalesce(a.request, x.request), coalesce(a.response, x.response), coalesce(a.body, x.body)
FROM attempts AS a
LEFT JOIN exchanges AS x ON x.seq = a.exchange
WHERE a.delivery = ?
ORDER BY a.seq DESC
LIMIT ?;

-- events_of_exchange
-- The events whose deliveries shared a request.
SELECT d.seq AS delivery, e.seq, e.id, e.tenant, e.type, e.data, e.accepted_at, e.occurred_at, e.ordering_key
FROM attempts AS a INDEXED BY attempts_of_exchange
CROSS JOIN deliveries AS d ON d.seq = a.delivery
CROSS JOIN events AS e ON e.seq = d.event
WHERE a.exchange = ?;

-- subscription_key
-- The key of a subscription, deleted ones too: their history stays readable.
SELECT seq FROM subscriptions WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant);

-- tenants
-- Every tenant that is declared or has a secret.
SELECT seq, name, plan, sealed, created_at, updated_at FROM tenants ORDER BY seq;

-- save_tenant
-- A tenant's plan, the tenant made if need be.
INSERT INTO tenants (name, plan, created_at, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET plan = excluded.plan, updated_at = excluded.updated_at
RETURNING seq;

-- save_tenant_secrets
-- A tenant's secrets, the tenant made if need be.
INSERT INTO tenants (name, sealed, created_at, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at
RETURNING seq;

-- delete_tenant
-- Its plan and secrets are forgotten; what else has its name stays.
DELETE FROM tenants WHERE name = ?;

-- tokens
-- Every token, by what is kept of it.
SELECT seq, user, digest, scopes, tenant, created_at, expires_at, last_used_at FROM tokens ORDER BY seq;

-- access_tokens
-- The access tokens of endpoints.
SELECT subscription, sealed FROM access_tokens;

-- save_access_token
-- The access token of an endpoint, in the place of the one before.
INSERT INTO access_tokens (subscription, sealed) VALUES (?, ?)
ON CONFLICT (subscription) DO UPDATE SET sealed = excluded.sealed;

-- drop_access_token
-- None any more.
DELETE FROM access_tokens WHERE subscription = ?;

-- insert_token
-- A token of a user that has none that can be read.
INSERT OR REPLACE INTO tokens (user, digest, scopes, tenant, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING seq;

-- delete_token
-- It opens nothing any more.
DELETE FROM tokens WHERE user = ?;

-- use_token
-- When a token was last used.
UPDATE tokens SET last_used_at = ? WHERE user = ?;

-- event_type_names
-- The types that are declared.
SELECT type FROM event_types;

-- list_event_types
-- A page of event types, newest first.
SELECT seq, type, description, example, deprecated, created_at, updated_at
FROM event_types
WHERE seq < :before
ORDER BY seq DESC
LIMIT :limit;

-- show_event_type
-- One event type.
SELECT seq, type, description, example, deprecated, created_at, updated_at FROM event_types WHERE type = :type;

-- save_event_type
-- An event type, made or described anew.
INSERT INTO event_types (type, description, example, deprecated, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (type) DO UPDATE
SET description = excluded.description, example = excluded.example, deprecated = excluded.deprecated,
    updated_at = excluded.updated_at
WHERE (description, example, deprecated) IS NOT (excluded.description, excluded.example, excluded.deprecated);

-- delete_event_type
-- A type is declared no more; events of it stay.
DELETE FROM event_types WHERE type = ?;

-- statistics_of
-- What became of the attempts and deliveries of one subscription in some hours; an edited count must not overflow.
SELECT subscription, state, label, status_code, error_code, bucket,
       sum(CASE WHEN typeof(count) = 'integer' THEN min(count, 1 << 40) END) AS count
FROM statistics
WHERE subscription = ? AND hour >= ? AND hour < ?
GROUP BY state, label, status_code, error_code, bucket;

-- count_pending
-- How many deliveries of some subscriptions wait, up to a number.
SELECT count(*) AS count
FROM (SELECT 1 FROM json_each(:subscriptions) AS wanted
      CROSS JOIN deliveries AS d INDEXED BY deliveries_due ON d.state = 'pending' AND d.subscription = wanted.value
      LIMIT :most);

-- insert_replays
-- New deliveries of events that were accepted before.
INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, trigger, created_at, place, replay)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
       'pending', json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]'),
       json_extract(value, '$[7]'), json_extract(value, '$[8]'), 1
FROM json_each(?);

-- replayable
-- The next deliveries that a replay comes to, and whether it takes them: those whose event did not go there again since.
SELECT d.seq, d.event,
       d.state IN (SELECT value FROM json_each(:states))
       AND (:since IS NULL OR :since <= iif(d.replay, (SELECT accepted_at FROM events WHERE seq = d.event), d.created_at))
       AND (:until IS NULL OR :until > iif(d.replay, (SELECT accepted_at FROM events WHERE seq = d.event), d.created_at))
       AND NOT EXISTS (
           SELECT 1 FROM deliveries AS later INDEXED BY deliveries_replayed
           WHERE later.replay = 1 AND later.event = d.event AND later.subscription = d.subscription AND later.seq > d.seq
       ) AS wanted
FROM deliveries AS d INDEXED BY deliveries_of_subscription
WHERE d.subscription = :subscription AND d.seq > :cursor AND d.seq <= :newest
ORDER BY d.seq
LIMIT :limit;

-- replayable_given_up
-- The same, where none but failed and cancelled ones are asked for.
SELECT d.seq, d.event,
       d.state IN (SELECT value FROM json_each(:states))
       AND (:since IS NULL OR :since <= iif(d.replay, (SELECT accepted_at FROM events WHERE seq = d.event), d.created_at))
       AND (:until IS NULL OR :until > iif(d.replay, (SELECT accepted_at FROM events WHERE seq = d.event), d.created_at))
       AND NOT EXISTS (
           SELECT 1 FROM deliveries AS later INDEXED BY deliveries_replayed
           WHERE later.replay = 1 AND later.event = d.event AND later.subscription = d.subscription AND later.seq > d.seq
       ) AS wanted
FROM deliveries AS d INDEXED BY deliveries_given_up
WHERE d.state IN ('failed', 'cancelled') AND d.subscription = :subscription AND d.seq > :cursor AND d.seq <= :newest
ORDER BY d.seq
LIMIT :limit;

-- insert_replay
-- A replay that is asked for.
INSERT INTO replays (subscription, states, since, until, newest, cursor, made, moved_at)
VALUES (:subscription, :states, :since, :until, :newest, 0, 0, :now);

-- unfinished_replays
-- How many replays of a subscription are not finished.
SELECT count(*) FROM replays WHERE subscription = ?;

-- next_replay
-- Of whom waits longest for a turn, the replay that is least far; that of a disabled subscription waits until it is enabled.
SELECT r.seq, r.subscription, r.states, r.since, r.until, r.newest, r.cursor, r.made
FROM replays AS r
CROSS JOIN subscriptions AS s ON s.seq = r.subscription
WHERE s.state = 'active' AND s.deleted_at IS NULL
ORDER BY r.moved_at, r.cursor, r.seq
LIMIT 1;

-- move_replay
-- How far a replay has come.
UPDATE replays SET cursor = ?, made = ? WHERE seq = ?;

-- pass_turn
-- The replays of a subscription, one of which had a turn, stand behind those of all others.
UPDATE replays SET moved_at = ? WHERE subscription = ?;

-- drop_replay
-- A replay that is finished.
DELETE FROM replays WHERE seq = ?;

-- drop_replays
-- The replays of a subscription that is deleted.
DELETE FROM replays WHERE subscription = ?;

-- event_to_replay
-- One event as the engine sees it, and whether it named its subscriptions; the newest where several tenants use the id.
SELECT seq, id, tenant, type, data, accepted_at, occurred_at, ordering_key, chosen
FROM events
WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY seq DESC
LIMIT 1;

-- deliveries_to
-- What an event made for some subscriptions, newest first.
SELECT w.id, w.state, w.subscription_seq, d.replay
FROM deliveries AS d INDEXED BY deliveries_of_event
CROSS JOIN deliveries_shown AS w ON w.seq = d.seq
WHERE d.event = :event AND +d.subscription IN (SELECT value FROM json_each(:subscriptions))
ORDER BY d.seq DESC
LIMIT :limit;

-- deleted_receivers
-- Subscriptions that an event made deliveries for, and that were deleted since, newest first.
SELECT s.seq, s.id, s.settings
FROM subscriptions AS s
WHERE s.seq IN (SELECT subscription FROM deliveries INDEXED BY deliveries_of_event WHERE event = :event)
  AND s.deleted_at IS NOT NULL AND s.seq < :before AND (:subscription IS NULL OR s.id = :subscription)
ORDER BY s.seq DESC
LIMIT :limit;

-- tables
-- Every table of the schema.
SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%';

-- is_ours
-- Whether a file is a database of ours, or holds nothing yet: all is of one moment.
SELECT CASE (SELECT user_version FROM pragma_user_version)
           WHEN 0 THEN count(*) = 0
           ELSE total(type = 'table' AND name IN ('meta', 'deliveries')) = 2
       END
FROM sqlite_schema;

-- count_deliveries
-- How many deliveries read as in each state.
SELECT CASE WHEN d.state <> 'pending'     THEN d.state
            WHEN s.deleted_at IS NOT NULL THEN 'cancelled'
            WHEN s.state = 'disabled'     THEN 'held'
            ELSE 'pending' END AS state, sum(d.count) AS count
FROM (SELECT subscription, state, count(*) AS count FROM deliveries GROUP BY subscription, state) AS d
CROSS JOIN subscriptions AS s ON s.seq = d.subscription
GROUP BY 1
ORDER BY 1;

-- count_subscriptions
-- How many subscriptions are in each state.
SELECT CASE WHEN deleted_at IS NOT NULL THEN 'deleted' ELSE state END AS state, count(*) AS count
FROM subscriptions
GROUP BY 1
ORDER BY 1;

-- count_finished
-- How many deliveries ended before a time.
SELECT count(*) FROM deliveries INDEXED BY deliveries_finished WHERE finished_at < ?;

-- count_history
-- How many deliveries and events there are.
SELECT (SELECT count(*) FROM deliveries) AS deliveries, (SELECT count(*) FROM events) AS events;

-- oldest_pending
-- When the oldest delivery was made that waits, and that nothing holds back.
SELECT d.created_at
FROM deliveries AS d INDEXED BY deliveries_in_state
CROSS JOIN subscriptions AS s ON s.seq = d.subscription
WHERE d.state = 'pending' AND d.state <> 'delivered' AND s.deleted_at IS NULL AND s.state = 'active'
ORDER BY d.seq
LIMIT 1;

-- newest_event
-- When the last event was accepted.
SELECT accepted_at FROM events ORDER BY seq DESC LIMIT 1;
