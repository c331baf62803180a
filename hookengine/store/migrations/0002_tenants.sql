-- What an operator declares: tenants with their plans and secrets, tokens of the API, event types. `seq` orders their lists.

CREATE TABLE tenants (
    seq        INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    plan       TEXT,
    sealed     BLOB,                             -- encrypted JSON: the signing secrets, newest first; NULL without any
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

CREATE TABLE tokens (
    seq          INTEGER PRIMARY KEY,
    user         TEXT    NOT NULL UNIQUE,        -- one token each
    digest       BLOB    NOT NULL UNIQUE,        -- all that is kept of the token itself
    scopes       TEXT    NOT NULL,               -- JSON
    tenant       TEXT,                           -- the one that it is bound to
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER                         -- written some time after the use
);

CREATE TABLE event_types (
    seq         INTEGER PRIMARY KEY,
    type        TEXT    NOT NULL UNIQUE,
    description TEXT    NOT NULL,
    example     BLOB,                            -- the producer's own bytes
    deprecated  INTEGER NOT NULL CHECK (deprecated IN (0, 1)),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);
