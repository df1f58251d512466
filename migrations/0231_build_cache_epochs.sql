-- What builds of an app keep from one another is dropped on every host before the next build there, once the app has asked
-- for it or has another platform.

alter table app add column cache_epoch integer not null default 0;
comment on column app.cache_epoch is 'grows each time the next build is to begin without the cache of earlier ones';
alter table version_holder add column cache_epoch integer not null default 0;
comment on column version_holder.cache_epoch is 'the epoch of the app at which this host''s cache was last dropped';
