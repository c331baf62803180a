-- Lists of millions: by tenant and type of event, and by time. What there is of earlier rows is put into spans by upkeep.

CREATE INDEX events_of_type ON events (tenant, type);
CREATE INDEX subscriptions_of_tenant ON subscriptions (tenant);

-- Some thousands of keys in a row, with the earliest and the latest time among their rows: so those of a time are found without an
-- index, which every event would pay for, and also where the clock has gone back between two of them.
CREATE TABLE spans (
    kind     TEXT    NOT NULL CHECK (kind IN ('events', 'deliveries')),
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest   INTEGER NOT NULL,
    PRIMARY KEY (kind, first)
) WITHOUT ROWID;
