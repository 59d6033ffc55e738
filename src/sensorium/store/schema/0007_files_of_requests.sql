-- Files that belong to a request are deleted with it.

CREATE INDEX files_of_request ON files (request) WHERE request IS NOT NULL;
