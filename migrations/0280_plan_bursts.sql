-- A plan may let the CPU of a unit exceed it by a factor.

alter table plan
    add column cpu_burst double precision,
    add column max_cpu_burst double precision,
    add constraint plan_burst_check check (cpu_burst >= 1 and max_cpu_burst >= coalesce(cpu_burst, 1));
comment on column plan.cpu_burst is 'the factor by which the CPU of a unit may exceed the plan; null: 1';
comment on column plan.max_cpu_burst is 'the largest factor that an app may have instead; null: any';

create or replace view process_limit as
select p.app_id, p.version, p.process, plan.name as plan,
       case when own.plan is null then coalesce(a.override_memory_bytes, plan.memory_bytes) else plan.memory_bytes end
           as memory_bytes,
       (case when own.plan is null
             then coalesce(a.override_cpu_milli, plan.cpu_milli) * coalesce(a.override_cpu_burst, plan.cpu_burst, 1)
             else plan.cpu_milli * coalesce(plan.cpu_burst, 1) end)::integer as cpu_milli
from version_process p
join app a on a.app_id = p.app_id
left join process_plan own on own.app_id = p.app_id and own.process = p.process
join plan on plan.name = coalesce(own.plan, a.plan);
