CREATE TABLE builds (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    template   TEXT NOT NULL,
    ask        TEXT NOT NULL,
    status     TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX builds_of_template ON builds (tenant, template, created_at);
CREATE INDEX builds_by_status ON builds (status, updated_at);

CREATE TABLE build_logs (
    build      TEXT NOT NULL,
    first_line INTEGER NOT NULL,
    next_line  INTEGER NOT NULL,
    lines      TEXT NOT NULL,
    PRIMARY KEY (build, first_line)
) STRICT;

CREATE TABLE template_tags (
    tenant     TEXT NOT NULL,
    template   TEXT NOT NULL,
    tag        TEXT NOT NULL,
    build      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, template, tag)
) STRICT;

INSERT INTO schema_version (version) VALUES (2);
