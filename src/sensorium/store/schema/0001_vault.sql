-- Secrets, sealed. One row of `secrets` per name ever used: the row outlives its secret, so that version numbers never repeat.
-- `seal` covers every other column of its row; `wrapped` and `sealed` cover theirs. Times are UTC, in whole seconds.

CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL CHECK (typeof(version) = 'integer' AND version > 0),
    state TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'removed')),
    changed_at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    seal BLOB NOT NULL
);

CREATE TABLE secret_versions (
    name TEXT NOT NULL REFERENCES secrets (name),
    version INTEGER NOT NULL CHECK (typeof(version) = 'integer' AND version > 0),
    hosts TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (name, version)
);

-- No reference to `secrets`: an audit row outlives what it tells about. `at` is the minute's start where uses are counted.
CREATE TABLE vault_audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    host TEXT NOT NULL,
    count INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX vault_audit_uses ON vault_audit (at, who, action, name, version, host) WHERE action IN ('reveal', 'refuse');

-- One row: a number that grows with every change of a secret, so that a process sees cheaply whether its memory is stale.
CREATE TABLE vault_state (generation INTEGER NOT NULL);
INSERT INTO vault_state (generation) VALUES (0);
