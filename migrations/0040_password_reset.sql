-- Tokens that let somebody who has forgotten their password have a new one mailed.

create table password_reset (
    digest bytea primary key,
    user_id uuid not null references user_account on delete cascade,
    created_at timestamptz not null default now(),
    used_at timestamptz
);
create index password_reset_user on password_reset (user_id);
create index password_reset_created on password_reset (created_at);
comment on column password_reset.digest is 'SHA-256 of the token; the token itself is in a mail alone';
comment on column password_reset.used_at is 'when it was used, or made void by the use of another one';
