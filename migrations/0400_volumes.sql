-- Volumes: data that stays when apps go.
create table volume (
    volume_id uuid not null,
    -- From the sequence of apps: users of units and groups of volumes are numbered together.
    number integer not null default nextval(pg_get_serial_sequence('app', 'number')),
    name text not null,
    pool text not null,
    plan text not null,
    team_owner text not null,
    options jsonb not null,
    host text,
    created_at timestamptz not null default now(),
    constraint volume_pkey primary key (volume_id),
    constraint volume_name_key unique (name),
    constraint volume_number_key unique (number),
    constraint volume_pool_fkey foreign key (pool) references pool,
    constraint volume_team_owner_fkey foreign key (team_owner) references team on update cascade
);
create index volume_team_owner on volume (team_owner);
create index volume_pool on volume (pool);
comment on table volume is 'volumes; what they hold is on a host';
comment on column volume.number is 'no app and no other volume has it, ever: the group of its files is made of it';
comment on column volume.plan is 'the name of a plan of the settings';
comment on column volume.options is 'what its owner has chosen, by name';
comment on column volume.host is 'the host that has its data; null until a unit has first used it';

create table volume_bind (
    volume_id uuid not null,
    app_id uuid not null,
    mount_point text not null,
    read_only boolean not null,
    created_at timestamptz not null default now(),
    constraint volume_bind_pkey primary key (app_id, mount_point),
    constraint volume_bind_volume_id_fkey foreign key (volume_id) references volume,
    constraint volume_bind_app_id_fkey foreign key (app_id) references app on delete cascade
);
create index volume_bind_volume on volume_bind (volume_id);
comment on table volume_bind is 'the paths at which apps and jobs are to have volumes';

-- What a host still has to remove.
create table removed_volume (
    volume_id uuid not null,
    host text not null,
    provisioner text not null,
    removed_at timestamptz not null default now(),
    constraint removed_volume_pkey primary key (volume_id)
);
create index removed_volume_host on removed_volume (host);
comment on table removed_volume is 'removed volumes whose data is still on a host';

alter table release add column volumes jsonb not null default '[]';
comment on column release.volumes is 'the volumes that its units have: a list of {"volume": id, "path": …, "readOnly": …}';
create index release_volumes on release using gin (volumes jsonb_path_ops) where volumes <> '[]';
