-- The git repository of each app, and who wrote what a push deploys.
create table repository (
    repository_id uuid primary key,
    app_id uuid constraint repository_app_key unique references app on delete set null,
    host text,
    branch text,
    pushed_at timestamptz,
    tidied_at timestamptz,
    created_at timestamptz not null default now()
);
create index repository_host on repository (host);
comment on column repository.repository_id is 'names its folder';
comment on column repository.app_id is 'null: the app is gone, and the files have to go';
comment on column repository.host is 'the machine that has its files, from the first push or fetch on';
comment on column repository.branch is 'the branch whose pushes are deployed; null: not chosen yet';
comment on column repository.tidied_at is 'when its files were looked after last';

alter table deploy add column author text not null default '';
comment on column deploy.author is 'who wrote the commit that was pushed; empty for what is no commit';

comment on column event.token_kind is 'session, api-key, app, password (sent along with the request), none (nobody had logged in), internal; empty: from before it was noted';
