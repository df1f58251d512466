-- :apps settled apps of 3 units each, on a machine that is not there.
insert into team (name) values ('bench');
insert into app (app_id, name, label, platform, plan, pool, team_owner, owner, deploys)
    select gen_random_uuid(), 'bench-' || n, 'bench-' || n, 'procfile', 'default', 'local', 'bench', 'admin@example.com', 1
    from generate_series(1, :apps) n;
insert into app_team (app_id, team) select app_id, 'bench' from app;
insert into app_process (app_id, process, units) select app_id, 'web', 3 from app;
insert into version (app_id, version, host, state) select app_id, 1, 'elsewhere', 'ready' from app;
insert into release (app_id, version, env, user_env) select app_id, 1, '', '' from app;
update app set current_release = release_id from release r where r.app_id = app.app_id;
insert into unit (unit_id, app_id, release_id, process, version, host, phase, state, address, ready)
    select name || '-web-' || k, a.app_id, current_release, 'web', 1, 'elsewhere', 'serving', 'started', '10.0.0.1:' || 1000 + k, true
    from app a, generate_series(1, 3) k;
vacuum analyze;
