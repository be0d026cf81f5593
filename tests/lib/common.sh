# What every end-to-end script shares: a temporary folder, results as TAP-like lines, waiting for a condition with a
# limit, free ports, and ending exactly what was started. Source it first:
#
#     . "$(dirname "$0")/../lib/common.sh"
#
# A script calls `ok "name" command...` (or `pass`/`fail`), and ends with `finish`. Whatever it starts it registers
# with `on_exit`; everything is undone in reverse order, also after a failure or a signal.
# shellcheck shell=bash
set -u -o pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ROOT
WORK=$(mktemp -d "${TMPDIR:-/tmp}/dtr-e2e.XXXXXX")
export WORK
PASSED=0
FAILED=0
EXIT_STEPS=()

# on_exit COMMAND...: runs the command when the script ends; the last registered runs first.
on_exit() { EXIT_STEPS+=("$(printf '%q ' "$@")"); }

cleanup() {
    local status=$? step
    trap - EXIT INT TERM
    for ((step = ${#EXIT_STEPS[@]} - 1; step >= 0; step--)); do
        eval "${EXIT_STEPS[step]}" >/dev/null 2>&1
    done
    if [ "${KEEP_WORK:-}" = 1 ]; then
        echo "# kept: $WORK"
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

note() { printf '# %s\n' "$*"; }
pass() {
    PASSED=$((PASSED + 1))
    printf 'ok %d - %s\n' $((PASSED + FAILED)) "$*"
}
fail() {
    FAILED=$((FAILED + 1))
    printf 'not ok %d - %s\n' $((PASSED + FAILED)) "$*"
}

# ok NAME COMMAND...: one result by the command's exit status; its output is shown only when it fails.
ok() {
    local name=$1 log="$WORK/.last-output"
    shift
    if "$@" >"$log" 2>&1; then
        pass "$name"
    else
        local status=$?
        fail "$name"
        note "exit status $status of: $*"
        tail -n 40 "$log" | sed 's/^/#   /'
        return 1
    fi
}

# refused NAME PATTERN COMMAND...: the command must fail and say something that matches the extended regular expression.
refused() {
    local name=$1 pattern=$2 log="$WORK/.last-output"
    shift 2
    if "$@" >"$log" 2>&1; then
        fail "$name"
        note "succeeded, but should have been refused: $*"
    elif grep -Eq -- "$pattern" "$log"; then
        pass "$name"
    else
        fail "$name"
        note "refused, but the message does not match $pattern:"
        tail -n 20 "$log" | sed 's/^/#   /'
    fi
}

# fails NAME COMMAND...: the command must fail; what it says does not matter.
fails() {
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then
        fail "$name"
        note "succeeded, but should have failed: $*"
    else
        pass "$name"
    fi
}

# same NAME A B: two texts are equal.
same() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1"
        note "left:  $2"
        note "right: $3"
    fi
}

# finish: prints the plan and ends the script; fails when a result failed or there was none.
finish() {
    printf '1..%d\n' $((PASSED + FAILED))
    [ "$FAILED" -eq 0 ] && [ "$PASSED" -gt 0 ]
    exit
}

# bail REASON: nothing further can be tried; counts as a failure, never as a skip.
bail() {
    fail "$*"
    finish
}

# need PROGRAM...: the script cannot do without these.
need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || bail "needs the program $program (./test installs it when root)"
    done
}

# wait_for SECONDS COMMAND...: until the command succeeds, at most so long.
wait_for() {
    local limit=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || return 1
        sleep 0.1
    done
}

# free_port: one TCP port of the loopback that nobody listens on; below the range that outgoing connections get.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# own_network [ADDRESS...]: starts the script anew in a network of its own, with the loopback and these addresses on it:
# every port is free there, and an address outside 127/8 is one that clients do not treat as the machine itself. The
# script's first command, before anything is started.
own_network() {
    local address
    if [ "${DTR_TEST_NETWORK:-}" != own ]; then
        need unshare ip
        [ "$(id -u)" = 0 ] || bail "a network of its own needs root"
        rm -rf "$WORK"
        DTR_TEST_NETWORK=own exec unshare -n bash "$0"
    fi
    ip link set lo up || bail "the loopback cannot be used"
    for address in "$@"; do
        ip address add "$address/32" dev lo || bail "the loopback cannot have $address"
    done
    # What the script starts, such as another script, has to ask for itself.
    unset DTR_TEST_NETWORK
}

# runbook PAGE NAME: the commands of a page below its mark "<!-- runbook: NAME -->", as they stand there.
runbook() {
    awk -v mark="<!-- runbook: $2 -->" '$0 == mark { found = 1 } found && /^```$/ { exit } found && on { print } found && /^```sh$/ { on = 1 }' "$1"
}

# port_open PORT [ADDRESS]
port_open() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }

# stop_pid PID [SECONDS]: TERM, then KILL when it has not gone in time (10 s unless told).
stop_pid() {
    local pid=$1 limit=$((SECONDS + ${2:-10}))
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$SECONDS" -ge "$limit" ]; then
            kill -KILL "$pid" 2>/dev/null
            break
        fi
        sleep 0.1
    done
    wait "$pid" 2>/dev/null
    return 0
}

# start_debian_registry NAME [CERT KEY]: Debian's docker-registry, our measure and remote end; sets REGISTRY_PORT.
# Plain HTTP unless a certificate is given.
start_debian_registry() {
    local dir="$WORK/registry-$1" tls=""
    need docker-registry
    mkdir -p "$dir"
    REGISTRY_PORT=$(free_port)
    [ $# -ge 3 ] && tls="  tls: {certificate: $2, key: $3}"
    cat >"$dir/config.yml" <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $dir/data}
  delete: {enabled: true}
http:
  addr: 127.0.0.1:$REGISTRY_PORT
$tls
CONFIG
    docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 &
    on_exit stop_pid $!
    wait_for 20 port_open "$REGISTRY_PORT" || bail "Debian's docker-registry does not listen: $(tail -n 3 "$dir/log")"
}

# make_certificate DIR NAME...: a CA (ca.pem) and a server certificate (cert.pem, key.pem) for the names and 127.0.0.1.
make_certificate() {
    local dir=$1 names="IP:127.0.0.1,DNS:localhost" name
    shift
    need openssl
    for name in "$@"; do names="$names,DNS:$name"; done
    mkdir -p "$dir"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=test CA" \
        -keyout "$dir/ca-key.pem" -out "$dir/ca.pem" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=registry" \
        -keyout "$dir/key.pem" -out "$dir/request.pem" 2>/dev/null
    printf 'subjectAltName=%s\n' "$names" >"$dir/extensions"
    openssl x509 -req -in "$dir/request.pem" -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -CAcreateserial -days 2 \
        -extfile "$dir/extensions" -out "$dir/cert.pem" 2>/dev/null
}
