-- Webhooks: requests that tell a server of a team about events that have ended. A webhook belongs to a team and ends with
-- it. It outlives the user who created it.

create table webhook (
    webhook_id uuid primary key,
    name text not null,
    team_id uuid not null references team (team_id) on delete cascade,
    creator_id uuid references user_account on delete set null,
    description text not null default '',
    method text not null default '',
    insecure boolean not null default false,
    target_kinds text[] not null default '{}',
    target_values text[] not null default '{}',
    kind_types text[] not null default '{}',
    kind_names text[] not null default '{}',
    error_only boolean not null default false,
    success_only boolean not null default false,
    sealed bytea not null,
    created_at timestamptz not null default now(),
    constraint webhook_name_key unique (name),
    constraint webhook_method_check check (method in ('', 'GET', 'POST', 'PUT', 'PATCH', 'DELETE')),
    constraint webhook_outcome_check check (not (error_only and success_only))
);
create index webhook_team on webhook (team_id);
create index webhook_creator on webhook (creator_id);
comment on table webhook is 'what is sent to a server when an event ends that its team may read';
comment on column webhook.creator_id is 'the user whose share of workers its deliveries use; null: that user was removed';
comment on column webhook.method is 'empty: POST';
comment on column webhook.target_kinds is 'of the target of the event, or of one that it locked besides; empty: all, as for the other lists';
comment on column webhook.sealed is 'sealed; place: webhook, webhook_id; JSON: URL, URL of the proxy, headers, body, secret that signs';
create trigger sealed_seal before insert or update of sealed on webhook
    for each row when (seal_key(new.sealed) < seal_oldest()) execute function seal_is_retired();

-- Without a foreign key to the webhook: the end of an event would wait for changes of each of its webhooks. What waits for a
-- removed webhook is deleted with it, or a little later by whoever looks for what is to be sent.
create table webhook_delivery (
    delivery_id uuid primary key default gen_random_uuid(),
    webhook_id uuid not null,
    event_id text not null references event on delete cascade,
    team_id uuid not null,
    webhook_name text not null,
    state text not null default 'waiting',
    error text not null default '',
    attempts jsonb not null default '[]',
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint webhook_delivery_event_key unique (webhook_id, event_id),
    constraint webhook_delivery_state_check check (state in ('waiting', 'sending', 'delivered', 'failed', 'dropped')),
    constraint webhook_delivery_ended_check check ((ended_at is not null) = (state in ('delivered', 'failed', 'dropped'))),
    constraint webhook_delivery_attempts_check check (jsonb_typeof(attempts) = 'array')
);
create index webhook_delivery_event on webhook_delivery (event_id);
create index webhook_delivery_open on webhook_delivery (webhook_id, created_at) where ended_at is null;
comment on table webhook_delivery is 'what is to be sent, or was, to one webhook about one event; goes with the event';
comment on column webhook_delivery.state is 'waiting: for its turn; sending: a saga has it; dropped: it was never sent, for the reason in error';
comment on column webhook_delivery.attempts is 'a list of {at, status, error}; status null: there was no response';

-- In the transaction that ends the event, so that none is missed, whatever process dies. Deferred, because who may read
-- the event is noted when the transaction commits. Only events of targets whose readers can be the members of a team: with
-- a role on a team nobody reads the events of roles, pools or users, whatever else these are about.
create function webhook_note_deliveries() returns trigger language plpgsql as $$
begin
    insert into webhook_delivery (webhook_id, event_id, team_id, webhook_name, state, error, ended_at)
        select w.webhook_id, new.event_id, w.team_id, w.name,
               case when waiting.is_full then 'dropped' else 'waiting' end,
               case when waiting.is_full then 'Too many other deliveries to this webhook were waiting.' else '' end,
               case when waiting.is_full then now() end
        from event_reader r join webhook w on w.team_id = r.object_id
        cross join lateral (
            select count(*) >= 1000 as is_full
            from (select from webhook_delivery d where d.webhook_id = w.webhook_id and d.ended_at is null limit 1000) o) waiting
        where r.event_id = new.event_id and r.kind = 'team'
          and new.target_kind in ('app', 'job', 'service', 'service-instance', 'team', 'volume', 'webhook')
          and (w.kind_types = '{}' or 'permission' = any(w.kind_types))
          and (w.kind_names = '{}' or new.kind = any(w.kind_names))
          and not (w.error_only and new.outcome = 'done') and not (w.success_only and new.outcome <> 'done')
          and (w.target_kinds = '{}' or new.target_kind = any(w.target_kinds) or exists (
              select from unnest(new.extra_targets) as x(pair) where split_part(pair, ':', 1) = any(w.target_kinds)))
          and (w.target_values = '{}' or new.target_value = any(w.target_values) or exists (
              select from unnest(new.extra_targets) as x(pair) where substr(pair, strpos(pair, ':') + 1) = any(w.target_values)))
    on conflict on constraint webhook_delivery_event_key do nothing;
    if found then
        perform pg_notify('tancho_webhooks', '');
    end if;
    return null;
end
$$;
create constraint trigger webhook_note_deliveries after update of ended_at on event deferrable initially deferred
    for each row when (old.ended_at is null and new.ended_at is not null) execute function webhook_note_deliveries();
