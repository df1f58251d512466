-- :instances instances of 100 services, and as many users.
insert into service (service_id, name, password, endpoint)
    select gen_random_uuid(), 'bench-' || n, '', 'http://127.0.0.1:9' from generate_series(0, 99) n;
insert into service_owner (service_id, team) select service_id, 'bench' from service;
insert into service_instance (instance_id, service_id, name, team_owner, state)
    select gen_random_uuid(), service_id, 'instance-' || n, 'bench', 'ready'
    from generate_series(1, :instances) n join service on name = 'bench-' || n % 100;
insert into service_instance_team (instance_id, team) select instance_id, 'bench' from service_instance;
insert into user_account (user_id, email, password_hash)
    select gen_random_uuid(), 'user-' || n || '@example.com', 'x' from generate_series(1, :instances) n;
vacuum analyze;
