# shellcheck shell=bash
# Functions shared by the scripts; to be sourced by bash. Everything that is started or created here is
# stopped and removed at the end of the script, however it ends.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# shellcheck disable=SC2034
if [ -t 1 ]; then
    BOLD=$'\033[1m' DIM=$'\033[2m' PLAIN=$'\033[0m'
else
    BOLD='' DIM='' PLAIN=''
fi

say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '    %s\n' "$*"; }

fail() {
    printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# The usage is the comment at the top of the script.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit "$1"
}

is_root() { [ "$(id -u)" = 0 ]; }

# --- Cleanup ---------------------------------------------------------------------------------------

AT_EXIT=()

# at_exit COMMAND…: registers a command to run at the end; the last registered runs first.
at_exit() { AT_EXIT=("$(printf '%q ' "$@")" "${AT_EXIT[@]}"); }

at_end() {
    local status=$? todo
    trap '' INT TERM HUP
    trap - EXIT
    for todo in "${AT_EXIT[@]}"; do
        eval "$todo" || status=1
    done
    exit "$status"
}

trap at_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# --- Required packages -----------------------------------------------------------------------------

# need_debian PACKAGE…: installs missing packages.
need_debian() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        printf 'Missing on this machine (names of Debian packages): %s\n' "${missing[*]}" >&2
        return 1
    fi
    if ! is_root; then
        printf 'Missing on this machine; as root: apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
        return 1
    fi
    say "Installing ${missing[*]}"
    case " ${missing[*]} " in
        # Only the programs are needed, not the cluster that Debian would start on port 5432.
        *" postgresql "*)
            if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
                mkdir -p /etc/postgresql-common
                printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
            fi
            ;;
    esac
    apt_install "${missing[@]}" || { apt_get update && apt_install "${missing[@]}"; }
}

# Runs apt-get; shows its output only if it fails.
apt_get() {
    local said
    said=$(DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$said" | tail -n 15 >&2
        return 1
    }
}

# Installs packages without starting their services.
apt_install() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    else
        policy=
    fi
    apt_get install -y --no-install-recommends "$@" || status=$?
    [ -z "$policy" ] || rm -f "$policy"
    return "$status"
}

# need COMMAND PACKAGE…: installs the packages if the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null || need_debian "$@" || fail "$command is needed."
}

# Prints the folder of the newest Postgres programs; nothing if there is none.
postgres_bin() {
    local bin
    for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) /usr/bin /usr/local/bin; do
        if [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then
            printf '%s\n' "$bin"
            return
        fi
    done
    bin=$(command -v initdb) && dirname "$(readlink -f "$bin")"
}

need_postgres() {
    [ -n "$(postgres_bin)" ] || need_debian postgresql || fail "The programs of a Postgres server are needed."
}

need_nginx() {
    [ ! -x /usr/sbin/nginx ] || return 0
    need_debian nginx-light || fail "nginx is needed."
    # Only the program is needed, not a server after the next boot.
    systemctl disable --quiet nginx 2>/dev/null || true
}

need_sshd() {
    [ ! -x /usr/sbin/sshd ] || return 0
    need_debian openssh-server || fail "sshd is needed."
    # As with nginx.
    systemctl disable --quiet ssh 2>/dev/null || true
}

need_docker() {
    command -v dockerd >/dev/null && command -v docker >/dev/null && command -v busybox >/dev/null ||
        need_debian docker.io iptables iproute2 busybox-static || fail "A Docker Engine is needed."
    # As with nginx.
    systemctl disable --quiet docker docker.socket 2>/dev/null || true
}

PYTHON=

# Sets PYTHON to one that can create virtual environments. The system's is preferred: other users can run it.
need_python() {
    local try
    for try in 1 2; do
        for PYTHON in /usr/bin/python3 "$(command -v python3 || true)"; do
            if [ -n "$PYTHON" ] && "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
                return
            fi
        done
        [ "$try" = 2 ] || need_debian python3 python3-venv || break
    done
    fail "Python 3 with its module venv is needed."
}

# venv FOLDER REQUIREMENTS: creates a virtual environment with the packages of the file.
venv() {
    "$PYTHON" -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$2"
}

# need_pebble FOLDER: builds pebble, the test server of Let's Encrypt, and its DNS server into a folder, unless they are
# in PATH.
need_pebble() {
    command -v pebble >/dev/null && command -v pebble-challtestsrv >/dev/null && return
    command -v go >/dev/null || return 1
    GOBIN=$1 GOFLAGS=-modcacherw go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1 \
        github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.1 >/dev/null 2>&1
}

need_rust() {
    command -v cargo >/dev/null || fail "A Rust toolchain is needed (cargo, 1.94 or later)."
    need cc gcc libc6-dev
}

TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TANCHO=$TARGET/debug/tancho

# The build shared by the server, the demo and the tests. PREBUILT=yes: it is up to date.
build() {
    [ "${PREBUILT:-}" != yes ] || return 0
    need_rust
    say "Building Tancho (cargo build)"
    (cd "$ROOT" && cargo build --locked --bin tancho) || fail "The build failed."
}

# --- Folders and processes -----------------------------------------------------------------------------

# new_folder WORD: sets FOLDER to a new folder that is removed at the end. As root, apps and Postgres run as
# other users, who must be able to traverse it.
new_folder() {
    local base=${TMPDIR:-/tmp}
    is_root && base=/var/tmp
    FOLDER=$(mktemp -d "$base/tancho-$1-XXXXXX")
    FOLDER=$(cd "$FOLDER" && pwd -P)
    chmod 711 "$FOLDER"
    at_exit remove_folder "$FOLDER"
}

# A folder is removed only when no process runs in it any more.
remove_folder() {
    local left
    if ! within 10 is_quiet "$1"; then
        left=$(processes_in "$1")
        printf 'These processes are left, and %s with them:\n' "$1" >&2
        # shellcheck disable=SC2086
        ps -o pid,user,args -p "$(echo $left | tr ' ' ,)" >&2 || true
        return 1
    fi
    rm -rf -- "$1"
}

is_quiet() { [ -z "$(processes_in "$1")" ]; }

# Prints the ids of all processes that use a folder: by working directory, command line or environment.
processes_in() {
    local entry pids=()
    for entry in /proc/[0-9]*; do
        case $(readlink "$entry/cwd" 2>/dev/null) in
            "$1" | "$1"/*) pids+=("${entry#/proc/}") ;;
        esac
    done
    # The pattern is passed through a pipe, so that grep does not match itself.
    # shellcheck disable=SC2062
    while IFS=/ read -r _ _ entry _; do
        pids+=("$entry")
    done < <(printf '%s\n' "$1" | grep -laF --file=- -- /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null)
    for entry in "${pids[@]}"; do
        # Processes that have ended meanwhile, and zombies, do not count.
        case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$entry/status" 2>/dev/null) in
            '' | Z* | X*) ;;
            *) [ "$entry" = "$$" ] || printf '%s\n' "$entry" ;;
        esac
    done | sort -nu
}

# within SECONDS COMMAND…: repeats the command until it succeeds or the time is over.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

# stop PID SECONDS: sends SIGTERM, and SIGKILL after this time.
stop() {
    kill -TERM "$1" 2>/dev/null || return 0
    within "$2" is_gone "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# ready_line PID OUT WORD: waits for the line that begins with the word on a server's standard output; sets
# LINE and READY_AT. The time-out allows for a busy machine, because a slow server has not failed.
ready_line() {
    within 180 ready_or_dead "$@" || return 1
    # shellcheck disable=SC2034
    READY_AT=$EPOCHREALTIME
    LINE=$(grep -m1 "^$3 " "$2")
}

ready_or_dead() { grep -q "^$3 " "$2" || is_gone "$1"; }

# The settings of the calling environment do not apply to what is started here.
own_settings() {
    local name
    for name in DATABASE_URL $(compgen -e TANCHO_); do unset "$name"; done
}

# start_tancho FOLDER [OPTION…]: starts Tancho with the data in FOLDER/data, on free ports; sets API, ROUTER
# (URLs) and TANCHO_PID. All its processes are stopped at the end.
start_tancho() {
    local folder=$1
    shift
    at_exit stop_tancho "$folder"
    # Its own session: Ctrl-C reaches only this script, which then stops everything in order.
    : >"$folder/tancho.out"
    setsid "$TANCHO" serve --data-dir "$folder/data" --api 127.0.0.1:0 --router 127.0.0.1:0 --ssh 127.0.0.1:0 "$@" \
        >>"$folder/tancho.out" 2>>"$folder/tancho.log" </dev/null &
    TANCHO_PID=$!
    ready_line "$TANCHO_PID" "$folder/tancho.out" 'tancho ready' || {
        tail -n 20 "$folder/tancho.log" >&2
        fail "Tancho did not start; see its output above."
    }
    API=$(sed -n 's/.* api=\([^ ]*\).*/\1/p' <<<"$LINE")
    # shellcheck disable=SC2034
    ROUTER=$(sed -n 's/.* router=\([^ ]*\).*/\1/p' <<<"$LINE")
    [ -n "$API" ] || fail "Tancho's ready line contains no API address: $LINE"
}

TANCHO_PID=

stop_tancho() {
    [ -z "$TANCHO_PID" ] || stop "$TANCHO_PID" 45
    TANCHO_PID=
    [ -d "$1/data" ] || return 0
    "$TANCHO" down --data-dir "$1/data" >>"$1/tancho.log" 2>&1 || {
        tail -n 5 "$1/tancho.log" >&2
        return 1
    }
}

# is_reachable PATH: whether all users can traverse all parent folders.
is_reachable() {
    local above
    above=$(dirname "$1")
    while :; do
        case $(stat -c %A "$above") in
            *[xt]) ;;
            *) return 1 ;;
        esac
        [ "$above" != / ] || return 0
        above=$(dirname "$above")
    done
}

# nobodys_runner FILE: writes a program that runs its arguments as the user nobody, for root. If other users
# cannot reach this checkout, it is mounted at the same path in a separate mount namespace, below folders that
# all users can traverse.
nobodys_runner() {
    local closed='' above=$ROOT
    while [ "$above" != / ]; do
        case $(stat -c %A "$above") in *[xt]) ;; *) closed=$above ;; esac
        above=$(dirname "$above")
    done
    {
        printf '#!/bin/sh\nset -e\n'
        if [ -n "$closed" ]; then
            printf 'if [ -z "$REACHED" ]; then REACHED=yes exec unshare -m --propagation private "$0" "$@"; fi\n'
            printf 'mkdir -p %q\nmount --bind %q %q\n' "$1.checkout" "$ROOT" "$1.checkout"
            printf 'mount -t tmpfs -o mode=755 none %q\nmkdir -p %q\n' "$closed" "$ROOT"
            printf 'mount --bind %q %q\nchmod go+x %q\ncd %q\n' "$1.checkout" "$ROOT" "$ROOT" "$ROOT"
        fi
        printf 'exec runuser -u nobody -- "$@"\n'
    } >"$1"
    chmod 755 "$1"
}

# as_postgres COMMAND…: runs a command as a user that may run Postgres, which refuses root.
as_postgres() {
    if is_root; then
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# start_postgres [OPTION…]: starts a temporary server; sets PG_FOLDER and PG_BIN. Options are passed to
# `postgres -c`.
start_postgres() {
    local option options="-c listen_addresses= -c unix_socket_permissions=0700 -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=300"
    need_postgres
    PG_BIN=$(postgres_bin)
    new_folder pg
    PG_FOLDER=$FOLDER
    if is_root; then chown postgres "$PG_FOLDER"; fi
    for option in "$@"; do options+=" -c $option"; done
    as_postgres env -u TMPDIR "$PG_BIN/initdb" -D "$PG_FOLDER/data" -U postgres -A trust -N -E UTF8 --locale=C >/dev/null ||
        fail "Postgres' initdb failed."
    at_exit stop_postgres
    as_postgres env -u TMPDIR "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -l "$PG_FOLDER/log" -w -t 180 \
        -o "-k $PG_FOLDER $options" start >/dev/null || {
        tail -n 5 "$PG_FOLDER/log" >&2
        fail "Postgres did not start."
    }
}

stop_postgres() { as_postgres "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -m immediate -w stop >/dev/null 2>&1 || true; }

# sql DATABASE [psql option…]: runs psql on the temporary server.
sql() { "$PG_BIN/psql" -h "$PG_FOLDER" -U postgres -d "$1" -v ON_ERROR_STOP=1 -qAtX "${@:2}"; }

# Prints the URL of one of its databases.
pg_url() { printf 'postgres://postgres@localhost/%s?host=%s\n' "$1" "$PG_FOLDER"; }

DOCKER_PID=

# start_docker: starts a Docker Engine with a socket and folders of its own, which leaves the firewall of the machine and
# other engines alone, and makes the images of the tests in it; sets DOCKER_URL. For root only.
start_docker() {
    need_docker
    new_folder docker
    DOCKER_FOLDER=$FOLDER
    DOCKER_URL=unix://$DOCKER_FOLDER/docker.sock
    at_exit stop_docker
    setsid dockerd --data-root "$DOCKER_FOLDER/data" --exec-root "$DOCKER_FOLDER/exec" -H "$DOCKER_URL" \
        -p "$DOCKER_FOLDER/pid" --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        >"$DOCKER_FOLDER/log" 2>&1 </dev/null &
    DOCKER_PID=$!
    within 60 docker_or_dead || {
        tail -n 5 "$DOCKER_FOLDER/log" >&2
        fail "The Docker Engine did not start."
    }
    docker_images
}

docker_or_dead() { ! is_gone "$DOCKER_PID" && docker -H "$DOCKER_URL" version >/dev/null 2>&1; }

# Images of busybox: one with a shell, and one that serves a text.
docker_images() {
    local root=$DOCKER_FOLDER/busybox applet
    mkdir -p "$root/bin" "$root/tmp" "$root/www"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    echo 'hello from docker' >"$root/www/index.html"
    tar -C "$root" -c . | docker -H "$DOCKER_URL" import -c 'CMD ["/bin/sh"]' - tancho-test-busybox:1 >/dev/null
    tar -C "$root" -c . | docker -H "$DOCKER_URL" import -c 'EXPOSE 8080' \
        -c 'CMD ["httpd","-f","-p","8080","-h","/www"]' - tancho-test-web:1 >/dev/null
}

stop_docker() {
    local mounted network networks
    # An engine leaves the bridges of its networks, whose routes would lead those of the next one astray.
    networks=$(docker -H "$DOCKER_URL" network ls -q --filter driver=bridge 2>/dev/null) || true
    [ -z "$DOCKER_PID" ] || stop "$DOCKER_PID" 30
    DOCKER_PID=
    for network in $networks; do
        ip link delete "br-$network" 2>/dev/null || true
    done
    # The engine leaves some of its own.
    while read -r _ mounted _; do
        case $mounted in "$DOCKER_FOLDER"/*) umount -l "$mounted" || true ;; esac
    done </proc/mounts
}

# random BYTES: prints hexadecimal digits.
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# json EXPRESSION: evaluates a Python expression over the document `j` on standard input; prints strings
# without quotes.
json() {
    "$PYTHON" -c '
import json, sys
j = json.load(sys.stdin)
value = eval(sys.argv[1])
print(value if isinstance(value, str) else json.dumps(value))' "$1"
}
