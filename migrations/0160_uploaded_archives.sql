-- An archive that was sent to a host without a worker is kept here until its deploy has ended, so that any worker can
-- take it: the database is the one thing that all hosts reach.
create table uploaded_archive (
    archive text primary key,
    owner text not null,
    size_bytes bigint not null default 0,
    event_id text references event on delete cascade,
    created_at timestamptz not null default now()
);
comment on column uploaded_archive.archive is 'the name of its file on a worker';
comment on column uploaded_archive.owner is 'by what those who send archives share the space';
comment on column uploaded_archive.event_id is 'the deploy that needs it; null while it is still being stored';

create table uploaded_archive_piece (
    archive text not null references uploaded_archive on delete cascade,
    seq integer not null,
    content bytea not null,
    constraint uploaded_archive_piece_pkey primary key (archive, seq),
    constraint uploaded_archive_piece_size check (octet_length(content) between 1 and 1048576)
);

-- The removal of an app needs no disk. What was bound to a host without a worker was never run.
update saga set host = null where kind = 'app.remove' and ended_at is null;
