-- Files: uploads, and what models made. The bytes lie in the folder `files` under `place`; a row is written only after they are on disk,
-- and `gone` is set before they are deleted. Times are UTC, in seconds; `acl` is JSON.

CREATE TABLE files (
    key TEXT NOT NULL PRIMARY KEY,
    place TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    request TEXT,
    content_type TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    acl TEXT,
    created_at REAL NOT NULL,
    expires_at REAL,
    gone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX files_of_owner ON files (owner, created_at, key);
CREATE INDEX files_sizes ON files (owner, size);
CREATE INDEX files_expiring ON files (expires_at) WHERE gone = 0;
CREATE INDEX files_gone ON files (key) WHERE gone = 1;

-- Parts of uploads that are not complete. `key` is that of the file to be; `until` is when its ticket ends.

CREATE TABLE upload_parts (
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    place TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, number)
);
CREATE INDEX upload_parts_sizes ON upload_parts (owner, size);
CREATE INDEX upload_parts_until ON upload_parts (until);
