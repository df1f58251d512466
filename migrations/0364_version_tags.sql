-- Versions that were built under a tag, to be deployed later by the name of their image.

alter table version add column tag text;
comment on column version.tag is 'what it is called in the name of its image; null: it was deployed without being built first';
create unique index version_tag_key on version (app_id, tag) where tag is not null;
