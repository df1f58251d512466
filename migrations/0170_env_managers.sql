-- Variables that users have set in the name of the platform, which could not be unset any more, are theirs again. Those of
-- the platform itself have names that users cannot set.
update env_var set managed_by = ''
where managed_by = 'tsuru'
  and name not in ('TSURU_APPNAME', 'TSURU_APPDIR', 'TSURU_HOST', 'TSURU_SERVICES', 'TSURU_APP_TOKEN');
