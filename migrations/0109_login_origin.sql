-- From where users have logged in: a stranger who fills the bound on an account's wrong passwords locks out strangers,
-- not its user.

create table login_origin (
    user_id uuid not null references user_account on delete cascade,
    network text not null,
    seen_at timestamptz not null default now(),
    constraint login_origin_pkey primary key (user_id, network)
);
comment on column login_origin.network is 'an IPv4 address, or the first 64 bits of an IPv6 address';
comment on table login_failure is 'wrong passwords and other tries that are counted, by subject, kept for the window in which they count';
delete from login_failure;
