#!/bin/sh
# An nginx of the app's own user, serving files of 1 kB and 100 kB.
set -eu
sed -e "s|@port@|$PORT|" -e "s|@home@|$HOME|" -e "s|@files@|$PWD/files|" nginx.conf >"$HOME/nginx.conf"
exec /usr/sbin/nginx -e stderr -c "$HOME/nginx.conf"
