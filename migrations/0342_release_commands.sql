-- The `release` line of a version's Procfile, and the unit that runs it while it does.
alter table version add column release_command text, add column release_unit text;
comment on column version.release_command is 'runs once when the version is deployed, before its units start';
comment on column version.release_unit is 'the unit that runs the command, while it does';
create index version_release_unit on version (host) where release_unit is not null;
