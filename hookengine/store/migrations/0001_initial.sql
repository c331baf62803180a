-- The first schema. Times are milliseconds since the epoch. `seq` is given in the order of commits.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE subscriptions (
    seq             INTEGER PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    tenant          TEXT    NOT NULL,
    settings        BLOB    NOT NULL,            -- JSON: what a user can set and may be read by everybody
    sealed          BLOB    NOT NULL,            -- encrypted JSON: secrets, header values, credentials
    state           TEXT    NOT NULL CHECK (state IN ('active', 'disabled')),
    disabled_reason TEXT    CHECK (disabled_reason IN ('manual', 'failures', 'gone')),
    version         INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    deleted_at      INTEGER,
    CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL))
);

-- Beside `subscriptions`, because it changes with every attempt.
CREATE TABLE health (
    subscription         INTEGER PRIMARY KEY REFERENCES subscriptions (seq),
    consecutive_failures INTEGER NOT NULL DEFAULT 0,
    last_success_at      INTEGER,
    last_failure_at      INTEGER,
    failing_since        INTEGER,
    enabled_at           INTEGER
);

CREATE TABLE events (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL,
    tenant       TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    data         BLOB    NOT NULL,               -- the producer's own bytes
    accepted_at  INTEGER NOT NULL,
    occurred_at  INTEGER NOT NULL,
    ordering_key TEXT,
    deliveries   INTEGER NOT NULL,               -- how many it made when it was accepted
    digest       BLOB,                           -- of the request, where the producer chose the id
    UNIQUE (id, tenant)
);

-- With the last of its deliveries an event goes; these never had one.
CREATE INDEX events_unwanted ON events (accepted_at) WHERE deliveries = 0;

CREATE TABLE deliveries (
    seq           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    event         INTEGER NOT NULL REFERENCES events (seq),
    subscription  INTEGER NOT NULL REFERENCES subscriptions (seq),
    state         TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    priority      INTEGER NOT NULL,
    due_at        INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL DEFAULT 0,
    step          INTEGER NOT NULL DEFAULT 0,    -- attempts since its schedule began
    trigger       TEXT    NOT NULL DEFAULT 'auto',
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    finished_at   INTEGER,
    failed_label  TEXT,
    CHECK ((state = 'pending') = (finished_at IS NULL))
);

-- The lanes: what is due next, for whom.
CREATE INDEX deliveries_due ON deliveries (subscription, priority, due_at, seq) WHERE state = 'pending';
-- The lists by state; most rows are delivered, and are found without it.
CREATE INDEX deliveries_in_state ON deliveries (state, seq) WHERE state <> 'delivered';
CREATE INDEX deliveries_of_event ON deliveries (event);
CREATE INDEX deliveries_of_subscription ON deliveries (subscription, seq);
CREATE INDEX deliveries_finished ON deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_expiring ON deliveries (expires_at) WHERE state = 'pending' AND expires_at IS NOT NULL;

CREATE TABLE attempts (
    seq          INTEGER PRIMARY KEY,
    delivery     INTEGER NOT NULL REFERENCES deliveries (seq),
    number       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    duration     INTEGER NOT NULL,
    trigger      TEXT    NOT NULL,
    outcome      TEXT    NOT NULL CHECK (outcome IN ('accepted', 'refused', 'unreachable', 'interrupted')),
    status_code  INTEGER,
    error_code   TEXT,
    error_detail TEXT,
    request      BLOB,                           -- JSON: method, url, headers, profile, digest of the body
    response     BLOB,                           -- JSON: headers, truncated
    body         BLOB                            -- of the response, up to the kept size
);

CREATE INDEX attempts_of_delivery ON attempts (delivery);

CREATE TABLE idempotency_keys (
    tenant     TEXT    NOT NULL,
    method     TEXT    NOT NULL,
    path       TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    digest     BLOB    NOT NULL,                 -- of the request's bytes
    status     INTEGER NOT NULL,
    answer     BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, method, path, key)
) WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- Deliveries as they read: what a disabled or deleted subscription does to them is one row, not a million.
CREATE VIEW deliveries_shown AS
SELECT d.seq, d.id, d.event AS event_seq, d.subscription AS subscription_seq,
       e.id AS event, s.id AS subscription, e.tenant, e.type,
       CASE WHEN d.state <> 'pending'         THEN d.state
            WHEN s.deleted_at IS NOT NULL     THEN 'cancelled'
            WHEN s.state = 'disabled'         THEN 'held'
            ELSE 'pending' END AS state,
       d.state AS stored_state,
       d.attempt_count,
       CASE WHEN d.state = 'pending' AND s.deleted_at IS NULL AND s.state = 'active' THEN d.due_at END AS next_attempt_at,
       d.created_at,
       coalesce(d.finished_at, s.deleted_at) AS finished_at,
       d.failed_label
FROM deliveries AS d
CROSS JOIN events AS e ON e.seq = d.event
CROSS JOIN subscriptions AS s ON s.seq = d.subscription;
