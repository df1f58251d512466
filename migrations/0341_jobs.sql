-- When a job runs, and how.
create table job (
    app_id uuid not null,
    schedule text not null,
    zone text not null,
    command text[] not null,
    concurrency text not null,
    missed_runs text not null,
    active_deadline integer,
    starting_deadline integer not null,
    retries integer not null,
    next_at timestamptz,
    last_success_at timestamptz,
    constraint job_pkey primary key (app_id),
    constraint job_app_id_fkey foreign key (app_id) references app on delete cascade,
    constraint job_concurrency_check check (concurrency in ('allow', 'forbid', 'replace')),
    constraint job_missed_runs_check check (missed_runs in ('skip', 'once', 'all')),
    constraint job_deadline_check check (active_deadline > 0 and starting_deadline > 0),
    constraint job_retries_check check (retries between 0 and 100)
);
comment on table job is 'the schedule of each job; what it runs is in the row of app with its id';
comment on column job.schedule is 'as its user has written it; empty: it runs only when a user triggers it';
comment on column job.next_at is 'the first instant that is not planned yet';
create index job_next_at on job (next_at) where next_at is not null;

-- The runs of jobs. That at most one row can exist for an instant is what makes each planned run start once.
create table job_run (
    run_id uuid not null,
    app_id uuid not null,
    scheduled_at timestamptz not null,
    origin text not null,
    state text not null default 'planned',
    reason text not null default '',
    attempt integer not null default 0,
    due_at timestamptz not null,
    unit_id text,
    host text,
    version integer,
    launched boolean not null default false,
    stop_reason text,
    started_at timestamptz,
    ended_at timestamptz,
    exit_status integer,
    constraint job_run_pkey primary key (run_id),
    constraint job_run_app_id_fkey foreign key (app_id) references job on delete cascade,
    constraint job_run_instant_key unique (app_id, scheduled_at),
    constraint job_run_unit_key unique (unit_id),
    constraint job_run_origin_check check (origin in ('schedule', 'trigger')),
    constraint job_run_state_check check (state in ('planned', 'started', 'ended', 'missed', 'skipped')),
    constraint job_run_started_check check (state <> 'started' or (unit_id is not null and host is not null and version is not null)),
    constraint job_run_ended_check check ((ended_at is not null) = (state in ('ended', 'missed', 'skipped')))
);
comment on table job_run is 'the runs of jobs: planned, then started, then ended; or missed or skipped, with the reason';
comment on column job_run.due_at is 'when it may start: its instant, or later for another attempt after a failure';
comment on column job_run.launched is 'a unit was started for this attempt: if it is gone, it is not started again';
comment on column job_run.stop_reason is 'why it is to be stopped before its end';
create index job_run_planned on job_run (due_at) where state = 'planned';
create index job_run_started on job_run (host) where state = 'started';
create index job_run_ended on job_run (app_id, ended_at desc) where ended_at is not null;
create index job_run_version on job_run (app_id, version) where state = 'started';

create function notify_of_jobs() returns trigger language plpgsql as $$
begin
    perform pg_notify('tancho_jobs', '');
    return null;
end
$$;
create trigger job_runs_planned after insert on job_run
    for each statement execute function notify_of_jobs();
