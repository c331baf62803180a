-- Which deleted subscriptions may have pending rows is noted with their deletion, so that not each of them is looked at.
INSERT INTO meta (name, value)
SELECT 'cancelling:' || s.seq, s.deleted_at FROM subscriptions AS s
WHERE s.deleted_at IS NOT NULL
  AND EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND subscription = s.seq);
