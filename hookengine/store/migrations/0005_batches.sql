-- Batches: deliveries that share a request. What there is of earlier deliveries goes by itself, as it did.

ALTER TABLE deliveries ADD COLUMN place INTEGER NOT NULL DEFAULT 0;  -- see hookengine.models.Place
ALTER TABLE deliveries ADD COLUMN batch INTEGER;                     -- the request that it shares: the seq of its first member
ALTER TABLE attempts ADD COLUMN exchange INTEGER;                    -- where what several attempts share is kept

-- The lanes hold what goes by itself and the heads of batches; beside them is what waits to be put into a batch.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (subscription, place, priority, due_at, seq) WHERE state = 'pending';
CREATE INDEX deliveries_of_batch ON deliveries (batch) WHERE batch IS NOT NULL;
CREATE INDEX attempts_of_exchange ON attempts (exchange) WHERE exchange IS NOT NULL;

-- The request of a batch and what it was answered: once, not once for each of its deliveries.
CREATE TABLE exchanges (
    seq      INTEGER PRIMARY KEY,
    request  BLOB,
    response BLOB,
    body     BLOB
);
