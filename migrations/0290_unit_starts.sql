-- One run of a unit is told from the next by the time of its start. A pid says something on one host only, and not every
-- provisioner has one.

alter table unit add column started_at timestamptz;
alter table unit drop column pid;
