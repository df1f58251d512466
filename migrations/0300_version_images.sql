-- A version may be an image instead of files.
alter table version add column image text
    constraint version_image_check check (image ~ '^[^@]+@sha256:[0-9a-f]{64}$');
comment on column version.image is 'the image under its digest; null: the version is a folder of files';
