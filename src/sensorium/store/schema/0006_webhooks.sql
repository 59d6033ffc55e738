-- Notifications of ended requests, written with the end itself. Times are UTC, in seconds.
-- state: 0 waiting, 1 delivered, 2 given up. `place` is the caller and the endpoint (the URL without its query), divided by a line end.
-- `round` grows when somebody asks for the notification again, or the request ends again, so that what came of an older try does not end
-- the newer round;
-- `asked_at` is when the round began, `tries` counts its tries.

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    caller TEXT NOT NULL,
    url TEXT NOT NULL,
    place TEXT NOT NULL,
    webhook_id TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL DEFAULT 0,
    round INTEGER NOT NULL DEFAULT 1,
    tries INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    asked_at REAL NOT NULL,
    due_at REAL NOT NULL,
    ended_at REAL
);
CREATE INDEX outbox_waiting ON outbox (place, due_at) WHERE state = 0;
CREATE INDEX outbox_asked ON outbox (asked_at) WHERE state = 0;
CREATE INDEX outbox_ended ON outbox (ended_at) WHERE state > 0;

-- One row per try. `reply` is how the receiver's answer begins.
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    at REAL NOT NULL,
    address TEXT,
    status INTEGER,
    ms REAL NOT NULL,
    reply TEXT NOT NULL,
    error TEXT
);
CREATE INDEX deliveries_of ON deliveries (seq, number);

-- Endpoints that answered 410: nothing is sent there until somebody asks for a notification again.
CREATE TABLE webhook_pauses (
    place TEXT NOT NULL PRIMARY KEY,
    since REAL NOT NULL
);

-- Keys that notifications are signed with, by their ids; the keys themselves are derived from a secret of the vault.
CREATE TABLE webhook_keys (
    kid TEXT NOT NULL PRIMARY KEY,
    created_at REAL NOT NULL,
    first_use_at REAL NOT NULL,
    last_use_at REAL
);
