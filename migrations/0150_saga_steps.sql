-- Rows of sagas name their step instead of counting it, so that a later version may insert one. The data of all
-- rollouts has one form. Sagas in the middle go on where they are.

-- What a rollout knows of itself: the apps, whether the candidates are made and promoted, and which they are.
create function pg_temp.rollout_of(data jsonb, is_past_first_step boolean) returns jsonb language sql immutable as $$
    select jsonb_build_object(
        'apps', jsonb_build_array(data -> 'app'),
        'created', is_past_first_step or data ->> 'release' is not null,
        'promoted', coalesce((data ->> 'switched')::boolean, false),
        'releases', case when data ->> 'release' is null then '[]'
                         else jsonb_build_array(jsonb_build_array(data -> 'app', data -> 'release')) end)
$$;

update saga set data = (data - 'release' - 'switched') || jsonb_build_object(
        'host', host, 'rollout', pg_temp.rollout_of(data, state = 'forward' and step > 1))
    where kind = 'app.deploy';
update saga set data = (data - 'release' - 'switched') || jsonb_build_object(
        'rollout', pg_temp.rollout_of(data, state = 'forward' and step > 0))
    where kind in ('app.rollback', 'app.rollout');
update saga set data = data || jsonb_build_object('rollout', jsonb_build_object(
        'apps', data -> 'rollout' -> 'apps', 'created', data -> 'rollout' -> 'proposed',
        'promoted', data -> 'rollout' -> 'adopted', 'releases', data -> 'rollout' -> 'releases'))
    where kind in ('app.bind', 'app.unbind', 'service-instance.delete') and data ? 'rollout';
update saga set data = data || jsonb_build_object('host', host) where kind in ('app.remove', 'forge.deploy');
-- Earlier releases kept more with a removal, which nobody reads.
update saga set data = jsonb_build_object('app', data -> 'app', 'host', data -> 'host') where kind = 'app.remove';

-- The steps of a kind as they were, in order, by their new names. One that has run to its end stays at its last step.
create function pg_temp.step_name(kind text, step integer) returns text language sql immutable as $$
    select coalesce(names[least(greatest(step + 1, 1), cardinality(names))], step::text)
    from (select case kind
        when 'app.deploy' then array['build', 'create-candidate', 'wait-for-units', 'promote', 'wait-for-routers', 'clean-up']
        when 'app.rollback' then array['create-candidate', 'wait-for-units', 'promote', 'wait-for-routers']
        when 'app.rollout' then array['create-candidate', 'wait-for-units', 'promote', 'wait-for-routers']
        when 'app.scale' then array['wait-for-units', 'wait-for-routers']
        when 'app.remove' then array['unbind', 'stop-units', 'remove-files', 'delete-app']
        when 'app.bind' then array['call-service', 'create-candidate', 'wait-for-units', 'promote']
        when 'app.unbind' then array['unbind-units', 'call-service', 'create-candidate', 'wait-for-units', 'promote']
        when 'service-instance.create' then array['call-service', 'mark-ready']
        when 'service-instance.update' then array['call-service', 'record-change']
        when 'service-instance.delete' then
            array['unbind-apps', 'create-candidate', 'wait-for-units', 'promote', 'call-service', 'delete-instance']
        when 'forge.deploy' then array['fetch', 'deploy']
        when 'mail.send' then array['send']
        end as names) as of_kind
$$;

alter table saga alter column step drop default;
alter table saga alter column step type text using pg_temp.step_name(kind, step);
comment on column saga.step is 'name of the step that it is at, forward or undoing';

drop function pg_temp.step_name(text, integer);
drop function pg_temp.rollout_of(jsonb, boolean);
