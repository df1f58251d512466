-- API keys can be looked at again by their owner (`token show`), so they are kept sealed beside their digest.

alter table bearer add column sealed bytea;
alter table bearer add constraint bearer_sealed_check check ((sealed is not null) = (kind = 'api-key'));
create unique index bearer_one_api_key on bearer (user_id) where kind = 'api-key';
comment on column bearer.sealed is 'API keys only: the key, sealed; place: bearer, token_id';

-- Failures too old to count are deleted as new ones come in.
create index login_failure_at on login_failure (failed_at);
