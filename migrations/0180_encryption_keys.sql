-- Two machines may have different keys of one number, when each has created its own key file. A value that one has
-- encrypted is lost to the other, so a server with another key than the first one of that number does not start.

create table encryption_key (
    key_id bigint primary key,
    digest bytea not null constraint encryption_key_digest_check check (octet_length(digest) = 32),
    first_seen_at timestamptz not null default now()
);
comment on table encryption_key is 'digests of the encryption keys that servers have used, by number';
