-- Which hosts have files of an app. The row outlives the app, and goes when its host has removed the files.
create table version_holder (
    host text not null,
    app_id uuid not null,
    app_number integer not null,
    constraint version_holder_pkey primary key (host, app_id)
);
comment on column version_holder.app_number is 'the uid of the app''s processes is made of it';

insert into version_holder (host, app_id, app_number)
select distinct v.host, a.app_id, a.number from version v join app a on a.app_id = v.app_id where v.host is not null;

comment on column version.host is 'the machine that has its files; null once they are removed';
create index version_removed on version (host, app_id, version) where state in ('removed', 'failed');
