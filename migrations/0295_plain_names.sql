-- Tables and columns get the names that the code and the documents use. Nothing else changes: a server of an
-- earlier version refuses this database, as it does any newer one.

alter table bearer rename to access_token;
alter index bearer_pkey rename to access_token_pkey;
alter index bearer_token_id_key rename to access_token_token_id_key;
alter index bearer_user rename to access_token_user;
alter index bearer_app rename to access_token_app;
alter index bearer_one_api_key rename to access_token_one_api_key;
alter index bearer_team_token_key rename to access_token_team_token_key;
alter table access_token rename constraint bearer_user_id_fkey to access_token_user_id_fkey;
alter table access_token rename constraint bearer_app_id_fkey to access_token_app_id_fkey;
alter table access_token rename constraint bearer_team_token_id_fkey to access_token_team_token_id_fkey;
alter table access_token rename constraint bearer_sealed_check to access_token_sealed_check;
alter table access_token rename constraint bearer_kind_check to access_token_kind_check;
alter table access_token rename constraint bearer_holder_check to access_token_holder_check;
alter table access_token rename constraint bearer_team_token_check to access_token_team_token_check;

alter table letter rename to outgoing_mail;
alter table outgoing_mail rename column letter_id to mail_id;
alter index letter_pkey rename to outgoing_mail_pkey;
update saga set data = data - 'letter' || jsonb_build_object('mail', data -> 'letter')
    where kind = 'mail.send' and data ? 'letter';

alter table seal_state rename to encryption_state;
alter index seal_state_pkey rename to encryption_state_pkey;
alter table encryption_state rename constraint seal_state_one_row_check to encryption_state_one_row_check;
alter table encryption_state rename constraint seal_state_order_check to encryption_state_order_check;
alter table seal_follower rename to encryption_replica;
alter index seal_follower_pkey rename to encryption_replica_pkey;

alter table uploaded_archive_piece rename to uploaded_archive_chunk;
alter index uploaded_archive_piece_pkey rename to uploaded_archive_chunk_pkey;
alter table uploaded_archive_chunk rename constraint uploaded_archive_piece_size to uploaded_archive_chunk_size;
alter table uploaded_archive_chunk
    rename constraint uploaded_archive_piece_archive_fkey to uploaded_archive_chunk_archive_fkey;

alter table saga rename column lane to queue;
alter table saga rename column problem_kind to error_kind;
alter table saga rename column problem to error;
alter table saga rename column last_problem to last_error;
alter table saga drop constraint saga_lane_check;
update saga set queue = case queue when 'people' then 'interactive' else 'background' end;
alter table saga add constraint saga_queue_check check (queue in ('interactive', 'background'));

alter table forge rename column problem to error;

alter table default_role rename column occasion to event;
alter table default_role rename constraint default_role_occasion_check to default_role_event_check;

alter table orphan rename column what to kind;
alter table orphan rename constraint orphan_what_check to orphan_kind_check;
alter table orphan rename column unheard_until to uncertain_until;
alter table orphan rename column held_until to rebind_blocked_until;
alter table bind rename column unheard_until to uncertain_until;
alter table bind rename column held_until to rebind_blocked_until;
alter table service_instance rename column unheard_until to uncertain_until;
