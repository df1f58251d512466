-- The change of the key that seals: which key seals now, who knows which keys, and a bolt against values
-- sealed with a key that is going.

create table seal_state (
    only_row boolean primary key default true,
    current_key bigint not null,
    oldest_key bigint not null default 0,
    changed_at timestamptz not null default now(),
    constraint seal_state_one_row_check check (only_row),
    constraint seal_state_order_check check (oldest_key <= current_key)
);
comment on column seal_state.current_key is 'number of the key that seals, on every replica';
comment on column seal_state.oldest_key is 'values that are sealed with an older key are refused';

create table seal_follower (
    replica_id uuid primary key,
    host text not null,
    known_keys bigint[] not null,
    current_key bigint not null,
    seen_at timestamptz not null default now()
);
comment on table seal_follower is 'replicas at work and the numbers of the keys that each one has; seen_at is renewed every few seconds';

create function seal_key(sealed bytea) returns bigint language sql immutable strict parallel safe
    return get_byte(sealed, 1)::bigint * 16777216 + get_byte(sealed, 2) * 65536 + get_byte(sealed, 3) * 256
           + get_byte(sealed, 4);
comment on function seal_key is 'the number of the key that a value is sealed with';

create function seal_oldest() returns bigint language sql stable
    return coalesce((select oldest_key from seal_state), 0);

-- Whoever gets this tries again, and has the new key by then.
create function seal_is_retired() returns trigger language plpgsql as $$
begin
    raise exception 'sealed with a key that is going' using errcode = 'serialization_failure';
end
$$;
create trigger value_seal before insert or update of value on env_var
    for each row when (seal_key(new.value) < seal_oldest()) execute function seal_is_retired();
create trigger value_seal before insert or update of value on bind_env
    for each row when (seal_key(new.value) < seal_oldest()) execute function seal_is_retired();
create trigger env_seal before insert or update of env on release
    for each row when (seal_key(new.env) < seal_oldest()) execute function seal_is_retired();
create trigger user_env_seal before insert or update of user_env on release
    for each row when (seal_key(new.user_env) < seal_oldest()) execute function seal_is_retired();
create trigger password_seal before insert or update of password on service
    for each row when (seal_key(new.password) < seal_oldest()) execute function seal_is_retired();
create trigger sealed_seal before insert or update of sealed on bearer
    for each row when (seal_key(new.sealed) < seal_oldest()) execute function seal_is_retired();

-- The text of a letter leaves the data of its saga, so that everything sealed lies in columns of its own.
create table letter (
    letter_id uuid primary key,
    sealed bytea not null,
    created_at timestamptz not null default now()
);
comment on table letter is 'letters on their way; gone once sent or given up';
comment on column letter.sealed is 'sealed; place: mail, letter_id';
create trigger sealed_seal before insert or update of sealed on letter
    for each row when (seal_key(new.sealed) < seal_oldest()) execute function seal_is_retired();
insert into letter (letter_id, sealed)
    select (data ->> 'letter')::uuid, decode(data ->> 'sealed', 'hex') from saga
    where kind = 'mail.send' and ended_at is null and data ->> 'sealed' <> '';
update saga set data = data - 'sealed' where kind = 'mail.send';
