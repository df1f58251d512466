-- Events (what changed, by whom; one running event locks its target) and sagas (the durable work behind them).

create table event (
    event_id text primary key,
    target_kind text not null,
    target_value text not null,
    kind text not null,
    owner_kind text not null,
    owner_name text not null,
    source_ip text not null default '',
    request_id text not null default '',
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    outcome text,
    error text not null default '',
    start_data jsonb,
    end_data jsonb,
    cancelable boolean not null default false,
    cancel_asked_at timestamptz,
    cancel_by text not null default '',
    cancel_reason text not null default '',
    contexts text[] not null default '{}',
    constraint event_id_check check (event_id ~ '^[0-9a-f]{24}$'),
    constraint event_end_check check ((ended_at is null) = (outcome is null))
);
create index event_started on event (started_at desc, event_id desc);
create index event_target on event (target_kind, target_value, started_at desc);
create index event_running on event (started_at) where ended_at is null;
comment on column event.outcome is 'null while it runs; done, cancelled, or the kind of problem it failed with';
comment on column event.contexts is 'kind:value pairs whose holders may read the event';

create table event_lock (
    target_kind text not null,
    target_value text not null,
    event_id text not null references event on delete cascade,
    constraint event_lock_pkey primary key (target_kind, target_value)
);
create index event_lock_event on event_lock (event_id);
comment on table event_lock is 'one running event per target: this row is the lock, gone when the event ends';

create table event_line (
    event_id text not null references event on delete cascade,
    seq bigint generated always as identity,
    at timestamptz not null default now(),
    message text not null,
    primary key (event_id, seq)
);

create table saga (
    saga_id uuid primary key,
    kind text not null,
    lane text not null,
    event_id text references event,
    host text,
    state text not null default 'forward',
    step integer not null default 0,
    data jsonb not null,
    attempts integer not null default 0,
    problem_kind text,
    problem text not null default '',
    fence bigint not null default 0,
    claimed_by uuid,
    lease_until timestamptz,
    wake_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint saga_state_check check (state in ('forward', 'undoing', 'done', 'undone', 'stuck')),
    constraint saga_lane_check check (lane in ('people', 'housekeeping')),
    constraint saga_end_check check ((ended_at is null) = (state in ('forward', 'undoing')))
);
create index saga_claim on saga (lane, wake_at) where ended_at is null;
create index saga_event on saga (event_id);
comment on column saga.host is 'only this host may run it (its input lies on that disk); null: any';
comment on column saga.fence is 'counts the claims; a write with an older fence changes nothing';

create table host (
    host text primary key,
    seen_at timestamptz not null default now()
);
comment on table host is 'machines whose local provisioner runs units; seen_at is renewed every few seconds';

create table router_seen (
    router_id uuid primary key,
    routes_at timestamptz not null,
    seen_at timestamptz not null default now()
);
comment on table router_seen is 'which routers are at work, and how new the addresses are that each one uses';
