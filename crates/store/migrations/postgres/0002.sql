CREATE TABLE builds (
    id         TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL,
    template   TEXT COLLATE "C" NOT NULL,
    ask        TEXT NOT NULL,
    status     TEXT COLLATE "C" NOT NULL,
    state      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX builds_of_template ON builds (tenant, template, created_at);
CREATE INDEX builds_by_status ON builds (status, updated_at);

CREATE TABLE build_logs (
    build      TEXT COLLATE "C" NOT NULL,
    first_line BIGINT NOT NULL,
    next_line  BIGINT NOT NULL,
    lines      TEXT NOT NULL,
    PRIMARY KEY (build, first_line)
);

CREATE TABLE template_tags (
    tenant     TEXT COLLATE "C" NOT NULL,
    template   TEXT COLLATE "C" NOT NULL,
    tag        TEXT COLLATE "C" NOT NULL,
    build      TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, template, tag)
);

INSERT INTO schema_version (version) VALUES (2);
