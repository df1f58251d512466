-- An e-mail address stands for one account however it is spelled. The spelling that was given is kept.

alter table user_account add column email_key text;
comment on column user_account.email_key is 'the address in small letters, by which its account is found; null for an account whose address an older one has in another spelling: it is found by its exact spelling only';

-- The oldest account of an address has its plain name.
update user_account set email_key = lower(email collate "C")
where user_id in (
    select distinct on (lower(email collate "C")) user_id from user_account
    order by lower(email collate "C"), created_at, user_id);
alter table user_account add constraint user_account_address_key unique (email_key);

create function user_set_email_key() returns trigger language plpgsql as $$
begin
    new.email_key := lower(new.email collate "C");
    return new;
end
$$;
create trigger user_set_email_key before insert on user_account
    for each row execute function user_set_email_key();

create function find_user(address text) returns uuid language sql stable
    return (select user_id from user_account
            where email = address or email_key = lower(address collate "C")
            order by email = address desc limit 1);
comment on function find_user is 'the account of an e-mail address: the one with exactly that spelling, else the one of that address';

create or replace function find_context_object(kind_word text, object_name text) returns uuid language plpgsql stable as $$
begin
    return case kind_word
        when 'team' then (select team_id from team where name = object_name)
        when 'app' then (select app_id from app where name = object_name)
        when 'service' then (select service_id from service where name = object_name)
        when 'service-instance' then (
            select i.instance_id from service_instance i join service s using (service_id)
            where s.name = split_part(object_name, '/', 1) and i.name = split_part(object_name, '/', 2))
        when 'pool' then (select pool_id from pool where name = object_name)
        when 'user' then find_user(object_name)
    end;
end
$$;
