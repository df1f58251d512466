-- Platforms that operators add: their scripts are stored here, so that every host can build with them.

create table platform_version (
    platform text not null,
    version integer not null,
    digest text not null,
    archive bytea not null,
    created_at timestamptz not null default now(),
    constraint platform_version_pkey primary key (platform, version),
    constraint platform_version_platform_fkey foreign key (platform) references platform on delete cascade,
    constraint platform_version_number_check check (version > 0),
    constraint platform_version_size_check check (octet_length(archive) between 1 and 524288)
);
comment on table platform_version is 'the scripts of platforms that came in an archive; the last few of each platform are kept';
comment on column platform_version.digest is 'SHA-256 of the archive, in hexadecimal: by it hosts know which scripts they have on disk';

alter table platform
    add column version integer,
    -- Deferred, because each of the two rows needs the other.
    add constraint platform_version_fkey foreign key (name, version)
        references platform_version (platform, version) deferrable initially deferred;
comment on column platform.version is 'what apps are built with; null: the scripts in the binary';
