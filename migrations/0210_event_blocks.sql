-- Event blocks: while one is active, no change begins that it matches.

create table event_block (
    block_id text not null,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    kind_name text not null default '',
    owner_name text not null default '',
    target_kind text not null default '',
    target_value text not null default '',
    conditions jsonb not null default '{}',
    reason text not null,
    constraint event_block_pkey primary key (block_id),
    constraint event_block_id_check check (block_id ~ '^[0-9a-f]{24}$'),
    constraint event_block_reason_check check (reason <> ''),
    constraint event_block_target_check check (target_kind <> '' or target_value = ''),
    constraint event_block_conditions_check check (jsonb_typeof(conditions) = 'object')
);
create index event_block_active on event_block (started_at) where ended_at is null;
create index event_block_started on event_block (started_at desc, block_id desc);
comment on table event_block is 'changes that an administrator has blocked; active until ended_at is set. An empty string matches everything';
comment on column event_block.kind_name is 'matches the kinds of events that begin with it';
comment on column event_block.conditions is 'strings by name; each must be a value of that name in the request of the event';
