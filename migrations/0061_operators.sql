-- What an operator sees of work that does not end by itself, and what they have given up.

alter table saga add column last_problem text not null default '';
alter table saga add column stuck_state text;
alter table saga add column given_up_at timestamptz;
comment on column saga.last_problem is 'what the last try of its step met, with the name of the step in front';
comment on column saga.stuck_state is 'of one that is stuck: forward or undoing, as it was before';
comment on column saga.given_up_at is 'an operator wants no more tries than one, and what is stuck is not shown any more';

alter table orphan add column given_up_at timestamptz;
comment on column orphan.given_up_at is 'an operator wants the service to be told no more';
