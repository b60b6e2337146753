-- Collation "C" compares byte by byte, as SQLite does.
CREATE TABLE api_keys (
    id         TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT NOT NULL,
    tenant     TEXT COLLATE "C" NOT NULL,
    role       TEXT NOT NULL,
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant, created_at);

CREATE TABLE templates (
    tenant     TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL,
    spec       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, name, version)
);

CREATE TABLE idempotent_requests (
    digest      TEXT COLLATE "C" PRIMARY KEY,
    body_hash   TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    created_at  BIGINT NOT NULL
);
CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);

INSERT INTO schema_version (version) VALUES (1);
