-- Where replicas find each other's SSH servers.
alter table repository_replica add column ssh_address text not null default '';
comment on table repository_replica is 'where each host is reached by the others; what is asked of a repository is passed on there';
comment on column repository_replica.url is 'of its API';
comment on column repository_replica.ssh_address is 'host and port of its SSH server; empty: it has none, or has not said';
