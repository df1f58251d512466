-- Where replicas find each other for the repositories that they have, and how large those are.
create table repository_replica (
    host text primary key,
    url text not null
);
comment on table repository_replica is 'the URL under which each host is reached by the others; what is asked of a repository is passed on there';

alter table repository add column bytes bigint not null default 0;
comment on column repository.bytes is 'its size on disk when it was last looked at';
