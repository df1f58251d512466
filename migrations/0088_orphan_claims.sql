-- Who is at an orphan, so that a claim ends when its owner is gone.

alter table orphan add column claimed_by uuid;
comment on column orphan.claimed_by is 'the replica that tells the service; one that has not given its claim back when that ends has died at it';
comment on column orphan.claimed_until is 'end of the claim, which its owner renews; only then another one takes it';
