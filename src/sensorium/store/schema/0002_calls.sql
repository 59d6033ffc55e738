-- One row per finished call, written in batches behind the calls. NULL is unknown, never 0. `began` is UTC in seconds since the epoch.
-- `attempts` is a JSON array: every route that did not answer, in the order in which they were tried.

CREATE TABLE calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    began REAL NOT NULL,
    caller TEXT NOT NULL,
    door TEXT NOT NULL,
    asked TEXT NOT NULL,
    model TEXT,
    provider TEXT,
    modality TEXT NOT NULL,
    status INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('answered', 'refused', 'failed', 'client_closed')),
    stream INTEGER NOT NULL,
    first_byte_s REAL,
    total_s REAL NOT NULL,
    bytes_in INTEGER,
    bytes_out INTEGER NOT NULL,
    tokens_in INTEGER,
    tokens_out INTEGER,
    images INTEGER,
    seconds REAL,
    characters INTEGER,
    agent TEXT,
    task TEXT,
    lease TEXT,
    command TEXT,
    request TEXT,
    fleet TEXT,
    attempts TEXT NOT NULL
);
CREATE INDEX calls_id ON calls (id);
CREATE INDEX calls_began ON calls (began);

-- One row: how many records of calls were lost since the database was made, as far as anybody could still count them.
CREATE TABLE calls_lost (count INTEGER NOT NULL);
INSERT INTO calls_lost (count) VALUES (0);
