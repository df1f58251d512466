-- What the callers of services have to remember: who is at an orphan just now, and which binds want no unit calls.

alter table orphan add column claimed_until timestamptz;
comment on column orphan.claimed_until is 'a replica is telling the service until then at most; nobody may make the thing anew meanwhile';

alter table bind add column unit_calls boolean not null default true;
comment on column bind.unit_calls is 'false once the service has answered that it has no calls for single units';
