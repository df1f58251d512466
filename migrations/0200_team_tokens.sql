-- Team tokens: for programs, such as those that deploy from CI. A token has an id that users choose, belongs to a team and
-- ends with it. Its value is a row of bearer, as that of every other token. It outlives the user who created it.

create table team_token (
    team_token_id uuid primary key,
    name text not null,
    team_id uuid not null references team (team_id) on delete cascade,
    description text not null default '',
    creator_id uuid references user_account on delete set null,
    created_by text not null,
    created_at timestamptz not null default now(),
    constraint team_token_name_key unique (name)
);
create index team_token_team on team_token (team_id);
create index team_token_creator on team_token (creator_id);
comment on column team_token.name is 'what the API calls token_id';
comment on column team_token.creator_id is 'the user whose share of workers and quota it uses; null: that user was removed';
comment on column team_token.created_by is 'e-mail address of the creator, as it was then';

alter table bearer
    add column team_token_id uuid references team_token on delete cascade,
    add column last_used_at timestamptz,
    drop constraint bearer_kind_check,
    add constraint bearer_kind_check check (kind in ('session', 'api-key', 'app', 'team-token')),
    drop constraint bearer_holder_check,
    add constraint bearer_holder_check check (num_nonnulls(user_id, app_id, team_token_id) = 1),
    add constraint bearer_team_token_check check ((team_token_id is not null) = (kind = 'team-token')),
    add constraint bearer_team_token_key unique (team_token_id);
comment on column bearer.last_used_at is 'team tokens only: when it was last used, to the minute';

-- Its events are read by the token itself, as those of a user by the user. By the id: a later token of the same name
-- does not read them.
create function event_note_token_owner() returns trigger language plpgsql as $$
begin
    insert into event_reader (event_id, kind, object_id)
        select new.event_id, 'owner', team_token_id from team_token where name = new.owner_name
    on conflict on constraint event_reader_pkey do nothing;
    return null;
end
$$;
create trigger event_note_token_owner after insert on event
    for each row when (new.owner_kind = 'token') execute function event_note_token_owner();

-- Replicas forget a token that goes with its team or with its user, and the name of one whose creator is gone.
create trigger rights_changed after delete on bearer
    for each row when (old.kind = 'team-token') execute function rights_changed();
comment on column event.token_kind is 'session, api-key, ssh-key, app, team-token, password (sent along with the request), none (nobody had logged in), internal; empty: from before it was noted';
