-- Calls that outlive a connection. One row is both the record and the place in the queue. Times are UTC, in seconds.
-- state: 0 queued, 1 running, 2 succeeded, 3 failed. Every write about a running request names its attempt, so that a
-- run that was given up cannot overwrite a later one.

CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    caller TEXT NOT NULL,
    call TEXT NOT NULL,
    input BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    told TEXT NOT NULL DEFAULT '{}',
    created_at REAL NOT NULL,
    claimed_at REAL,
    finished_at REAL
);
CREATE INDEX requests_queued ON requests (seq) WHERE state = 0;
CREATE INDEX requests_running ON requests (seq) WHERE state = 1;
CREATE INDEX requests_of_caller ON requests (caller, seq);
CREATE INDEX requests_finished ON requests (finished_at) WHERE state > 1;
