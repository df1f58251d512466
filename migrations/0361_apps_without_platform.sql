-- An app whose pool runs images needs no platform.

alter table app alter column platform drop not null;
comment on column app.platform is 'null: it is deployed from images and Dockerfiles only';
