# shellcheck shell=bash
# What the scripts share; to be sourced by bash. Everything that is started or made here is stopped and
# removed at the end of the script, however it ends.

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

# The usage is the comment at the head of the script.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit "$1"
}

is_root() { [ "$(id -u)" = 0 ]; }

# --- The end ---------------------------------------------------------------------------------------

AT_EXIT=()

# at_exit COMMAND…: to be run at the end, the last given first.
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

# --- What has to be installed ------------------------------------------------------------------------

# need_debian PACKAGE…: installs what is missing.
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
        # Only the programs are wanted, not the cluster that Debian would start on port 5432.
        *" postgresql "*)
            if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
                mkdir -p /etc/postgresql-common
                printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
            fi
            ;;
    esac
    apt_install "${missing[@]}" || { apt_get update && apt_install "${missing[@]}"; }
}

# apt-get without its chatter, unless it fails.
apt_get() {
    local said
    said=$(DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$said" | tail -n 15 >&2
        return 1
    }
}

# Installs without starting what a package would start as a service.
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

# need COMMAND PACKAGE…: the packages, if the command is not there.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null || need_debian "$@" || fail "$command is needed."
}

# The folder of the newest Postgres' programs; nothing if there is none.
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
    # Only the program is wanted, not a server after the next boot.
    systemctl disable --quiet nginx 2>/dev/null || true
}

need_sshd() {
    [ ! -x /usr/sbin/sshd ] || return 0
    need_debian openssh-server || fail "sshd is needed."
    # As with nginx.
    systemctl disable --quiet ssh 2>/dev/null || true
}

PYTHON=

# Sets PYTHON to one that can make virtual environments. The system's comes first: other users can run it.
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

# venv FOLDER REQUIREMENTS: a virtual environment with what the file asks for.
venv() {
    "$PYTHON" -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$2"
}

need_rust() {
    command -v cargo >/dev/null || fail "A Rust toolchain is needed (cargo, 1.94 or later)."
    need cc gcc libc6-dev
}

TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TANCHO=$TARGET/debug/tancho

# The one build that the server, the demo and the tests share. PREBUILT=yes says that it was made just now.
build() {
    [ "${PREBUILT:-}" != yes ] || return 0
    need_rust
    say "Building Tancho (cargo build)"
    (cd "$ROOT" && cargo build --locked --bin tancho) || fail "The build failed."
}

# --- Folders and processes -----------------------------------------------------------------------------

# new_folder WORD: sets FOLDER to a new folder that is removed at the end. As root, apps and Postgres run as other
# users, who have to pass through.
new_folder() {
    local base=${TMPDIR:-/tmp}
    is_root && base=/var/tmp
    FOLDER=$(mktemp -d "$base/tancho-$1-XXXXXX")
    FOLDER=$(cd "$FOLDER" && pwd -P)
    chmod 711 "$FOLDER"
    at_exit remove_folder "$FOLDER"
}

# A folder is removed only when nothing runs in it any more.
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

# The pids of all processes that have to do with a folder: by working directory, command line or environment.
processes_in() {
    local entry pids=()
    for entry in /proc/[0-9]*; do
        case $(readlink "$entry/cwd" 2>/dev/null) in
            "$1" | "$1"/*) pids+=("${entry#/proc/}") ;;
        esac
    done
    # The pattern comes through a pipe, so that grep does not find itself.
    # shellcheck disable=SC2062
    while IFS=/ read -r _ _ entry _; do
        pids+=("$entry")
    done < <(printf '%s\n' "$1" | grep -laF --file=- -- /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null)
    for entry in "${pids[@]}"; do
        # What ended meanwhile, or is only waiting to be collected, is gone.
        case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$entry/status" 2>/dev/null) in
            '' | Z* | X*) ;;
            *) [ "$entry" = "$$" ] || printf '%s\n' "$entry" ;;
        esac
    done | sort -nu
}

# within SECONDS COMMAND…: repeats the command until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

# stop PID SECONDS: SIGTERM, and SIGKILL after a while.
stop() {
    kill -TERM "$1" 2>/dev/null || return 0
    within "$2" is_gone "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# ready_line PID OUT WORD: waits for the line that begins with the word on a server's standard output; sets LINE and
# READY_AT.
ready_line() {
    within 60 ready_or_dead "$@" || return 1
    # shellcheck disable=SC2034
    READY_AT=$EPOCHREALTIME
    LINE=$(grep -m1 "^$3 " "$2")
}

ready_or_dead() { grep -q "^$3 " "$2" || is_gone "$1"; }

# The settings of whoever calls are not for what runs here.
own_settings() {
    local name
    for name in DATABASE_URL $(compgen -e TANCHO_); do unset "$name"; done
}

# start_tancho FOLDER [OPTION…]: starts Tancho with the data in FOLDER/data, on free ports; sets API, ROUTER (URLs) and
# TANCHO_PID. At the end everything of it is stopped.
start_tancho() {
    local folder=$1
    shift
    at_exit stop_tancho "$folder"
    # A session of its own: Ctrl-C reaches this script alone, which then stops things in order.
    : >"$folder/tancho.out"
    setsid "$TANCHO" serve --data-dir "$folder/data" --api 127.0.0.1:0 --router 127.0.0.1:0 --ssh 127.0.0.1:0 "$@" \
        >>"$folder/tancho.out" 2>>"$folder/tancho.log" </dev/null &
    TANCHO_PID=$!
    ready_line "$TANCHO_PID" "$folder/tancho.out" 'tancho ready' || {
        tail -n 20 "$folder/tancho.log" >&2
        fail "Tancho did not start; above is what it said."
    }
    API=$(sed -n 's/.* api=\([^ ]*\).*/\1/p' <<<"$LINE")
    # shellcheck disable=SC2034
    ROUTER=$(sed -n 's/.* router=\([^ ]*\).*/\1/p' <<<"$LINE")
    [ -n "$API" ] || fail "Tancho's ready line names no API: $LINE"
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

# as_postgres COMMAND…: as a user for whom Postgres runs; it refuses root.
as_postgres() {
    if is_root; then
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# start_postgres [OPTION…]: a throw-away server; sets PG_FOLDER and PG_BIN. Options go to `postgres -c`.
start_postgres() {
    local option options="-c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=300"
    need_postgres
    PG_BIN=$(postgres_bin)
    new_folder pg
    PG_FOLDER=$FOLDER
    if is_root; then chown postgres "$PG_FOLDER"; fi
    for option in "$@"; do options+=" -c $option"; done
    as_postgres env -u TMPDIR "$PG_BIN/initdb" -D "$PG_FOLDER/data" -U postgres -A trust -N -E UTF8 --locale=C >/dev/null ||
        fail "Postgres' initdb failed."
    at_exit stop_postgres
    as_postgres env -u TMPDIR "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -l "$PG_FOLDER/log" -w -t 30 \
        -o "-k $PG_FOLDER $options" start >/dev/null || {
        tail -n 5 "$PG_FOLDER/log" >&2
        fail "Postgres did not start."
    }
}

stop_postgres() { as_postgres "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -m immediate -w stop >/dev/null 2>&1 || true; }

# sql DATABASE [psql option…]: psql on the throw-away server.
sql() { "$PG_BIN/psql" -h "$PG_FOLDER" -U postgres -d "$1" -v ON_ERROR_STOP=1 -qAtX "${@:2}"; }

# The URL of one of its databases.
pg_url() { printf 'postgres://postgres@localhost/%s?host=%s\n' "$1" "$PG_FOLDER"; }

# random BYTES: hexadecimal digits.
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# json EXPRESSION: a Python expression over the document `j` on standard input; texts without quotes.
json() {
    "$PYTHON" -c '
import json, sys
j = json.load(sys.stdin)
value = eval(sys.argv[1])
print(value if isinstance(value, str) else json.dumps(value))' "$1"
}
