#!/usr/bin/env bash
# Replicas whose machines are killed, frozen, cut off, slowed down and filled up while clients use all of them: what was seen,
# by clients and by backups, is one history; what was acknowledged is there; a restored backup has every record that is in
# the backup, and no other; OCI's own tests pass on each replica. Three of them are then restarted, upgraded and given new
# certificates under load. SECONDS_BROKEN and SEED change the runs; `cargo xtask cluster` makes long ones.
# timeout: 600
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" cargo etcd ip unshare curl tc iptables openssl conformance
[ "$(id -u)" = 0 ] || bail "machines of their own need root"
run() {
    (cd "$ROOT" && DTR_BIN=$dtr cargo xtask cluster "$@" ${SEED:+--seed "$SEED"}) >"$WORK/figures" 2>"$WORK/log"
}
# history NAME ARGUMENTS...
history() {
    ok "$@"
    sed 's/^/# /' "$WORK/figures"
    grep '^wrong' "$WORK/log" | head -n 20 | cut -c1-2000 | sed 's/^/# /'
}
history "three replicas: one history, nothing lost, whatever breaks and whatever operators do" \
    run --seconds "${SECONDS_BROKEN:-25}" --restores 2 --rolling --conformance "$(command -v conformance)"
history "five replicas: one history, nothing lost" \
    run --replicas 5 --seconds "${SECONDS_BROKEN:-15}" --restores 1
finish
