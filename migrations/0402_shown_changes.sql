-- Volumes and rules of scaling are shown in the description of an app too.

create trigger app_change after insert or update or delete on volume_bind
    for each row execute function note_app_change();
create trigger app_change after insert or delete on autoscale
    for each row execute function note_app_change();
create trigger app_change_of_rule after update on autoscale
    for each row when ((old.rule, old.side) is distinct from (new.rule, new.side))
    execute function note_app_change();
