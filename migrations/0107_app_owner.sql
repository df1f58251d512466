-- Quotas count the apps that there are, so that no count can go wrong; and a user's apps by the user's id, so that
-- who registers a removed user's address has none of their apps.

alter table app add column owner_id uuid references user_account on delete set null;
update app a set owner_id = u.user_id from user_account u where u.email = a.owner and u.created_at <= a.created_at;
create index app_owner_id on app (owner_id);
create index app_team_owner on app (team_owner);
comment on column app.owner is 'e-mail address of who created it, as it was then';
comment on column app.owner_id is 'who created it, and has it in their quota; null: that user is gone';

create function app_set_owner_id() returns trigger language plpgsql as $$
begin
    new.owner_id := coalesce(new.owner_id, (select user_id from user_account where email = new.owner));
    return new;
end
$$;
create trigger app_set_owner_id before insert on app for each row execute function app_set_owner_id();

alter table user_account drop column quota_in_use;
alter table team drop column quota_in_use;
