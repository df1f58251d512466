-- What a pool allows (teams, routers, services, plans, …) is said by constraints, each for the pools whose name fits an
-- expression. They take the place of the teams of a pool and of its being public.

create table pool_constraint (
    constraint_id uuid primary key default gen_random_uuid(),
    pool_expr text not null,
    field text not null,
    names text[] not null,
    is_denylist boolean not null default false,
    constraint pool_constraint_key unique (pool_expr, field),
    constraint pool_constraint_field_check
        check (field in ('team', 'router', 'service', 'plan', 'volume-plan', 'cert-issuer'))
);
comment on column pool_constraint.pool_expr is 'the name of a pool, in which * stands for any characters';
comment on column pool_constraint.names is 'the names that are allowed, or denied if is_denylist; * stands for any characters';

create function matches_glob(value text, glob text) returns boolean language sql immutable strict parallel safe
    return value like replace(replace(replace(replace(glob, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%');
comment on function matches_glob is 'true if a name fits an expression, in which * stands for any characters';

create function names_allow(names text[], is_denylist boolean, value text) returns boolean
    language sql immutable parallel safe
    return exists (select from unnest(names) as name where matches_glob(value, name)) <> is_denylist;
comment on function names_allow is 'true if the names of a constraint allow a value; null without a constraint';

-- The longest expression decides; of two of the same length, the one with fewer asterisks.
create function find_pool_constraint(pool_name text, field_name text) returns setof pool_constraint
    language sql stable
begin atomic
    select c.* from pool_constraint c
    where c.field = field_name and matches_glob(pool_name, c.pool_expr)
    order by length(c.pool_expr) desc, length(c.pool_expr) - length(replace(c.pool_expr, '*', '')), c.pool_expr
    limit 1;
end;
comment on function find_pool_constraint is 'the constraint that holds for a pool and a field, if there is one';

create function pool_allows(pool_name text, field_name text, value text) returns boolean language sql stable
    return coalesce(
        (select names_allow(c.names, c.is_denylist, value) from find_pool_constraint(pool_name, field_name) c),
        field_name <> 'team');
comment on function pool_allows is 'true if a pool allows a value; without a constraint it allows everything, but no team';

insert into pool_constraint (pool_expr, field, names)
select p.name, 'team',
       case when p.is_public or p.is_default then array['*']
            else array(select t.team from pool_team t where t.pool = p.name order by t.team) end
from pool p;

drop table pool_team;
alter table pool drop column is_public;

-- A later pool of the same name begins without the constraints of this one.
create function pool_constraint_of_removed_pool() returns trigger language plpgsql as $$
begin
    delete from pool_constraint where pool_expr = old.name;
    return null;
end
$$;
create trigger pool_constraint_of_removed_pool after delete on pool
    for each row execute function pool_constraint_of_removed_pool();

-- Nor is a later team or plan of the same name allowed where this one was. What is denied stays denied.
create function pool_constraint_without_removed() returns trigger language plpgsql as $$
begin
    update pool_constraint set names = array_remove(names, old.name)
    where field = tg_argv[0] and not is_denylist and old.name = any(names);
    return null;
end
$$;
create trigger pool_constraint_without_removed after delete on team
    for each row execute function pool_constraint_without_removed('team');
create trigger pool_constraint_without_removed after delete on service
    for each row execute function pool_constraint_without_removed('service');
create trigger pool_constraint_without_removed after delete on plan
    for each row execute function pool_constraint_without_removed('plan');

create function pool_constraint_of_renamed_team() returns trigger language plpgsql as $$
begin
    update pool_constraint set names = array_replace(names, old.name, new.name)
    where field = 'team' and old.name = any(names);
    return null;
end
$$;
create trigger pool_constraint_of_renamed_team after update of name on team
    for each row when (old.name <> new.name) execute function pool_constraint_of_renamed_team();
