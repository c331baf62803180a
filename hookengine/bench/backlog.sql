-- Deliveries of one subscription that wait for their time, each of an event of its own, as if accepted long ago.

WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries)
SELECT :events + n, 'event-' || n, 'default', 'order.created', CAST(printf('{"text":"%0489d"}', n) AS BLOB), :accepted_at, :accepted_at, 1
FROM n;

WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, created_at)
SELECT :deliveries + n, 'delivery-' || n, :events + n, (SELECT seq FROM subscriptions WHERE id = :subscription), 'pending', 1, :due_at + n, :accepted_at
FROM n
