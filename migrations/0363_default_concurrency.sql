-- What a job does while a run of it goes on is shown only if somebody has chosen it.

alter table job alter column concurrency drop not null;
comment on column job.concurrency is 'null: as the default, forbid';
