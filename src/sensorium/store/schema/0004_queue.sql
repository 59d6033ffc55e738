-- The queue in full: order, fencing, retries, webhooks, logs. One row of `requests` is still both the record and the place in the queue.
-- state: 0 queued, 1 running, 2 delayed until `not_before`, 3 succeeded, 4 failed, 5 cancelled. The last three are never left.
-- Order within a lane: (prio, vtag, seq). Every write about a running request names its attempt. `holder` is the start of the hub that
-- runs it. Times are UTC, in seconds. Inputs and outputs of more than 64 KiB
-- are files, and NULL here.

ALTER TABLE requests RENAME TO requests_before;

CREATE TABLE requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    work TEXT NOT NULL,
    app TEXT NOT NULL,
    path TEXT NOT NULL DEFAULT '',
    lane TEXT NOT NULL,
    caller TEXT NOT NULL,
    prio INTEGER NOT NULL DEFAULT 0,
    vtag REAL NOT NULL DEFAULT 0,
    call TEXT NOT NULL DEFAULT '{}',
    rules TEXT NOT NULL DEFAULT '{}',
    input BLOB,
    body_sha256 BLOB,
    state INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    holder TEXT,
    not_before REAL,
    start_deadline REAL,
    upstream TEXT,
    cancel_at REAL,
    told TEXT NOT NULL DEFAULT '{}',
    status INTEGER,
    output BLOB,
    idem_key TEXT,
    webhook_url TEXT,
    ver INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    claimed_at REAL,
    finished_at REAL,
    payload_expires_at REAL,
    payload_gone INTEGER NOT NULL DEFAULT 0
);
INSERT INTO requests (seq, id, work, app, lane, caller, vtag, call, rules, input, state, attempt, runs, told, status, created_at, claimed_at,
        finished_at, payload_expires_at)
    SELECT seq, id, 'video', 'video', json_extract(call, '$.model'), caller, seq, call, '{"no_retry": true}', nullif(input, x''),
        iif(state > 1, state + 1, state), attempt, attempt, told, iif(state = 2, 200, json_extract(told, '$.status')), created_at, claimed_at,
        finished_at, finished_at + 2592000 FROM requests_before;
DROP TABLE requests_before;

CREATE INDEX requests_waiting ON requests (lane, prio, vtag, seq) WHERE state = 0;
CREATE INDEX requests_waiting_of ON requests (lane, caller, prio, vtag, seq) WHERE state = 0;
CREATE INDEX requests_running ON requests (lane) WHERE state = 1;
CREATE INDEX requests_delayed ON requests (not_before) WHERE state = 2;
CREATE INDEX requests_low ON requests (created_at) WHERE state = 0 AND prio > 0;
CREATE INDEX requests_deadline ON requests (start_deadline) WHERE state IN (0, 2) AND start_deadline IS NOT NULL;
CREATE INDEX requests_of_caller ON requests (caller, seq);
CREATE INDEX requests_payload ON requests (payload_expires_at) WHERE state > 2 AND payload_gone = 0;
CREATE INDEX requests_gone ON requests (finished_at) WHERE payload_gone = 1;
CREATE UNIQUE INDEX requests_idempotent ON requests (caller, app, idem_key) WHERE idem_key IS NOT NULL;

-- One row per run that ended: how, and for how long it was held.
CREATE TABLE attempts (
    request TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    began REAL NOT NULL,
    ended REAL NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (request, attempt)
) WITHOUT ROWID;

CREATE TABLE request_logs (
    request TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (request, attempt, number)
) WITHOUT ROWID;
CREATE INDEX request_logs_at ON request_logs (at);
