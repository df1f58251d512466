-- What the files of a version are, by one digest of their paths, modes and contents.
alter table version add column content_digest text
    constraint version_content_digest_check check (content_digest ~ '^sha256:[0-9a-f]{64}$');
comment on column version.content_digest is 'null: not built yet, or built before digests were kept';
