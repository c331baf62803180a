-- Order: deliveries that go one after the other. What there is of earlier deliveries goes as it did.

ALTER TABLE deliveries ADD COLUMN line TEXT;     -- with fifo, its ordering key, or '' without one: those of one line follow each other
ALTER TABLE deliveries ADD COLUMN turn INTEGER;  -- its turn in the line

-- As before, but that what waits to be put into a batch, or for its turn in a line, has no time of its own.
DROP VIEW deliveries_shown;
CREATE VIEW deliveries_shown AS
SELECT d.seq, d.id, d.event AS event_seq, d.subscription AS subscription_seq,
       e.id AS event, s.id AS subscription, e.tenant, e.type,
       CASE WHEN d.state <> 'pending'         THEN d.state
            WHEN s.deleted_at IS NOT NULL     THEN 'cancelled'
            WHEN s.state = 'disabled'         THEN 'held'
            ELSE 'pending' END AS state,
       d.state AS stored_state,
       d.attempt_count,
       CASE WHEN d.state = 'pending' AND s.deleted_at IS NULL AND s.state = 'active'
                 AND (d.place = 0 OR (d.place = 2 AND d.line IS NULL)) THEN d.due_at END AS next_attempt_at,
       d.created_at,
       coalesce(d.finished_at, s.deleted_at) AS finished_at,
       d.failed_label
FROM deliveries AS d
CROSS JOIN events AS e ON e.seq = d.event
CROSS JOIN subscriptions AS s ON s.seq = d.subscription;

CREATE INDEX deliveries_in_line ON deliveries (subscription, line, turn) WHERE state = 'pending' AND line IS NOT NULL;
