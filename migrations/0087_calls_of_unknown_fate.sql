-- Calls to services whose answers nobody heard, because Tancho died or waited no longer: a service may carry them out
-- late. Until when is a guess (services.timeout_seconds after the call was given up), told in the database's time.

alter table service_instance add column unheard_until timestamptz;
comment on column service_instance.unheard_until is 'until then the service may carry out a call, to make it or to destroy it, whose answer nobody heard';

alter table bind add column unheard_until timestamptz;
alter table bind add column held_until timestamptz;
comment on column bind.unheard_until is 'until then the service may carry out a call, to bind or to unbind, whose answer nobody heard';
comment on column bind.held_until is 'the same, for calls to unbind only: they would hit a new bind of the same two';

alter table orphan add column unheard_until timestamptz;
alter table orphan add column held_until timestamptz;
comment on column orphan.unheard_until is 'no earlier than then the hunt ends, whatever the service confirms: an older call may still come';
comment on column orphan.held_until is 'of a bind: until then no new bind of the same two is made, for an older unbind may still come and hit it';
