-- A process may have a plan of its own, and an app may override parts of its plan. One view says what a unit of a process
-- is limited to.

create table process_plan (
    app_id uuid not null references app on delete cascade,
    process text not null,
    plan text not null,
    constraint process_plan_pkey primary key (app_id, process),
    constraint process_plan_plan_fkey foreign key (plan) references plan
);
create index process_plan_plan on process_plan (plan);
comment on table process_plan is 'the processes of an app that have another plan than the app; kept while no version has the process';

alter table app
    add column override_memory_bytes bigint,
    add column override_cpu_milli integer,
    add column override_cpu_burst double precision,
    add constraint app_override_check
        check (override_memory_bytes > 0 and override_cpu_milli > 0 and override_cpu_burst >= 1);
comment on column app.override_memory_bytes is 'instead of that of its plan; null: not overridden';
comment on column app.override_cpu_milli is 'instead of that of its plan; null: not overridden';
comment on column app.override_cpu_burst is 'the factor by which the CPU of a unit may exceed the plan; null: as the plan says';

create view process_limit as
select p.app_id, p.version, p.process, plan.name as plan,
       case when own.plan is null then coalesce(a.override_memory_bytes, plan.memory_bytes) else plan.memory_bytes end
           as memory_bytes,
       case when own.plan is null
            then (coalesce(a.override_cpu_milli, plan.cpu_milli) * coalesce(a.override_cpu_burst, 1))::integer
            else plan.cpu_milli end as cpu_milli
from version_process p
join app a on a.app_id = p.app_id
left join process_plan own on own.app_id = p.app_id and own.process = p.process
join plan on plan.name = coalesce(own.plan, a.plan);
comment on view process_limit is 'what a unit of a process may use: by the plan of the process, or else by that of the app with its override';
