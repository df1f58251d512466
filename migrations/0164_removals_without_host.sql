-- The removal of an app is bound to no host, and its data names none.
update saga set host = null, data = data - 'host' where kind = 'app.remove' and (host is not null or data ? 'host');
