-- Replays, and what attempts came to by the hour. What there is of earlier events and deliveries reads as it did.

ALTER TABLE events ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0;      -- 1: it named its subscriptions itself
ALTER TABLE deliveries ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;  -- 1: made by a replay, not by the event's acceptance

-- A replay asks of each delivery whether the event went to the same subscription again since; most never did.
CREATE INDEX deliveries_replayed ON deliveries (event, subscription, seq) WHERE replay = 1;
-- Of a subscription with millions of deliveries, most are delivered: a replay of the others does not pass them.
CREATE INDEX deliveries_given_up ON deliveries (subscription, seq) WHERE state IN ('failed', 'cancelled');

-- Replays that are not finished. Each takes some of the deliveries of one subscription, in the order of their keys.
CREATE TABLE replays (
    seq          INTEGER PRIMARY KEY,
    subscription INTEGER NOT NULL REFERENCES subscriptions (seq),
    states       TEXT    NOT NULL,               -- JSON: those that it takes
    since        INTEGER,                        -- those whose events were accepted then or later
    until        INTEGER,                        -- and before
    newest       INTEGER NOT NULL,               -- the last that it looks at: there when it was asked for
    cursor       INTEGER NOT NULL,               -- the last that it has looked at
    made         INTEGER NOT NULL,
    moved_at     INTEGER NOT NULL                -- whose turn is next: the one that waits longest
);

-- Of a subscription, how many attempts of an hour ended alike, and how many deliveries did. Alike are those with the same status,
-- error, time taken and effect on their delivery: so counts only ever add up, whoever counts, and need no row to be read.
CREATE TABLE statistics (
    subscription INTEGER NOT NULL REFERENCES subscriptions (seq),
    hour         INTEGER NOT NULL,               -- when it begins
    state        TEXT    NOT NULL,               -- the final state that a delivery came to, or '' where it goes on
    label        TEXT    NOT NULL,               -- of a failed one
    status_code  INTEGER NOT NULL,               -- 0 without an answer
    error_code   TEXT    NOT NULL,
    bucket       INTEGER NOT NULL,               -- of the time taken, see hookengine.statistics; -1 where no attempt was made
    count        INTEGER NOT NULL,
    PRIMARY KEY (subscription, hour, state, label, status_code, error_code, bucket)
) WITHOUT ROWID;

CREATE INDEX statistics_by_hour ON statistics (hour);
