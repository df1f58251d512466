-- A database of the schema before steps had names, with a saga of each kind unfinished. All processes are stopped, so
-- that rollouts need no units.

insert into user_account (user_id, email, password_hash) values (gen_random_uuid(), 'ana@example.com', '-');
insert into team (name) values ('red');

-- An app for each saga that is about one: with a version, a current release, and a candidate.
insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
    select ('00000000-0000-7000-8000-0000000000' || lpad(n::text, 2, '0'))::uuid, name, name, 'static', 'default', 'local', 'red', 'ana@example.com'
    from unnest(array['deploying', 'building', 'returning', 'abandoned', 'restarting', 'scaling', 'leaving', 'binding', 'unbinding', 'fetching'])
        with ordinality as apps (name, n);
update app set state = 'removing' where name = 'leaving';
insert into app_process (app_id, process, units, stopped) select app_id, 'web', 1, true from app;
insert into version (app_id, version, host, state, processes)
    select app_id, n, 'test', 'ready', '[{"name":"web","command":"work"}]' from app, generate_series(1, 2) n;
insert into release (app_id, version, env, user_env) select app_id, n, '', '' from app, generate_series(1, 2) n order by 2;
update app set
    current_release = (select release_id from release r where r.app_id = app.app_id and version = 1),
    candidate_release = (select release_id from release r where r.app_id = app.app_id and version = 2)
    where name <> 'building';

insert into service (service_id, name, password, endpoint)
    values ('00000000-0000-7000-8000-000000000050', 'mysql', '', 'http://127.0.0.1:1');
insert into service_instance (instance_id, service_id, name, team_owner, owner, description, state)
    select ('00000000-0000-7000-8000-0000000000' || n)::uuid, '00000000-0000-7000-8000-000000000050', name, 'red', 'ana@example.com', 'old', state
    from (values ('51', 'fresh', 'creating'), ('52', 'changing', 'ready'), ('53', 'unwanted', 'removing'), ('54', 'shared', 'ready'))
        as made (n, name, state);
insert into bind (bind_id, instance_id, app_id, state)
    select '00000000-0000-7000-8000-000000000060', '00000000-0000-7000-8000-000000000054', app_id, 'bound' from app where name = 'binding';

-- Its kind, step, state and data; `$app` and `$release` stand for those of the app.
create temp table unfinished (n serial, kind text, step integer, state text, target_kind text, target text, data text);
insert into unfinished (kind, step, state, target_kind, target, data) values
    ('app.deploy', 3, 'forward', 'app', 'deploying', '{"app":"$app","archive":"gone.tar","version":2,"release":$release,"switched":false}'),
    ('app.deploy', 0, 'undoing', 'app', 'building', '{"app":"$app","archive":"gone.tar","version":null,"release":null,"switched":false}'),
    ('app.rollback', 2, 'forward', 'app', 'returning', '{"app":"$app","version":2,"keep_env":true,"release":$release,"switched":false}'),
    ('app.rollback', 0, 'undoing', 'app', 'abandoned', '{"app":"$app","version":2,"keep_env":true,"release":$release}'),
    ('app.rollout', 1, 'forward', 'app', 'restarting', '{"app":"$app","release":$release,"switched":false,"processes":null}'),
    ('app.scale', 0, 'forward', 'app', 'scaling', '{"app":"$app","verb":"stop","processes":["web"],"before":0,"after":0}'),
    ('app.remove', 1, 'forward', 'app', 'leaving', '{"app":"$app"}'),
    ('app.bind', 3, 'forward', 'app', 'binding', '{"bind":"00000000-0000-7000-8000-000000000060","user":"ana@example.com","heard":"yes","undo_sent":false,"rollout":{"apps":["$app"],"proposed":true,"adopted":false,"releases":[["$app",$release]]}}'),
    ('app.unbind', 3, 'forward', 'app', 'unbinding', '{"bind":"00000000-0000-7000-8000-000000000061","user":"ana@example.com","force":false,"again":false,"heard":"yes","rollout":{"apps":["$app"],"proposed":true,"adopted":false,"releases":[["$app",$release]]}}'),
    ('service-instance.create', 1, 'forward', 'service-instance', 'mysql/fresh', '{"instance":"00000000-0000-7000-8000-000000000051","heard":"yes","resumed":false,"undo_sent":false}'),
    ('service-instance.update', 1, 'forward', 'service-instance', 'mysql/changing', '{"instance":"00000000-0000-7000-8000-000000000052","user":"ana@example.com","patch":{"description":"new","team_owner":null,"plan":null,"tags":null,"parameters":null},"heard":"yes","old":null,"team_is_new":false}'),
    ('service-instance.delete', 4, 'forward', 'service-instance', 'mysql/unwanted', '{"instance":"00000000-0000-7000-8000-000000000053","user":"ana@example.com","ignore_errors":false,"heard":"yes","unbinding":[],"rollout":{"apps":[],"proposed":false,"adopted":false,"releases":[]}}'),
    ('forge.deploy', 0, 'forward', '', 'fetching', '{"app":"$app","commit":"c0ffee","source_ip":"127.0.0.1","digest":"","is_current":false}'),
    ('mail.send', 0, 'forward', '', '', '{"letter":"00000000-0000-7000-8000-000000000070","to":"ana@example.com","subject":"hello"}');

insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
    select lpad(n::text, 24, '0'), target_kind, target, 'app.deploy', 'user', 'ana@example.com' from unfinished where target_kind <> '';
insert into event_lock select target_kind, target_value, event_id from event;
insert into deploy (event_id, app_id, origin, user_name)
    select e.event_id, a.app_id, 'app-deploy', 'ana@example.com' from event e join app a on a.name = e.target_value
    where a.name in ('deploying', 'building', 'returning', 'abandoned');
insert into saga (saga_id, kind, lane, event_id, host, state, step, data, problem_kind, problem, share_key)
    select gen_random_uuid(), u.kind, 'people', e.event_id,
           case when u.kind in ('app.deploy', 'app.remove', 'forge.deploy') then 'test' end, u.state, u.step,
           replace(replace(u.data, '$app', coalesce(a.app_id::text, '')), '$release', coalesce(a.candidate_release::text, ''))::jsonb,
           case u.state when 'undoing' then 'failed' end, case u.state when 'undoing' then 'It did not start.' else '' end,
           'user/ana@example.com'
    from unfinished u
    left join event e on e.event_id = lpad(u.n::text, 24, '0')
    left join app a on a.name = u.target;
drop table unfinished;
