-- Services are told of the addresses that the traffic of units comes from, without a port: once for the first and once for
-- the last of the units that share one.

create function address_host(address text) returns text language sql immutable strict parallel safe as $$
    select regexp_replace(regexp_replace(address, '^\[(.*)\](:[0-9]+)?$', '\1'), '^([^:]+):[0-9]+$', '\1')
$$;
comment on function address_host is 'the host of host:port or [host]:port';

-- What services were told with a port is taken back under the same name, and only then they are told of the address.
-- What was never tried was never told.
delete from unit_bind where state = 'wanted' and attempts = 0;
delete from unit_bind x using unit_bind y
    where x.bind_id = y.bind_id and x.unit_host = y.unit_host and x.unit_id > y.unit_id;
update unit_bind set state = 'leaving', attempts = 0, wake_at = now() where unit_host <> address_host(unit_host);
alter table unit_bind drop constraint unit_bind_pkey;
alter table unit_bind drop column unit_id;
alter table unit_bind add constraint unit_bind_pkey primary key (bind_id, unit_host);
comment on table unit_bind is 'which addresses of units a service has been told of, for services that admit them one by one';
