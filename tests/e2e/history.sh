#!/usr/bin/env bash
# Three replicas whose machines are killed, frozen, cut off, slowed down and filled up while clients use all of them: what
# was seen, by clients and by backups, is one history; what was acknowledged is there; a restored backup is what the backup
# shows; and OCI's own tests pass on each replica. SECONDS_BROKEN and SEED change the run; `cargo xtask cluster` makes long
# ones, also with restarts, an upgrade and new certificates under load (`--rolling`).
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" cargo etcd ip unshare curl tc iptables conformance
[ "$(id -u)" = 0 ] || bail "machines of their own need root"
history() {
    cd "$ROOT" || return
    DTR_BIN=$dtr cargo xtask cluster --seconds "${SECONDS_BROKEN:-25}" --restores 2 --conformance "$(command -v conformance)" ${SEED:+--seed "$SEED"} >"$WORK/figures" 2>"$WORK/log"
}
ok "one history, nothing lost, every backup as it should be, and the protocol kept" history
sed 's/^/# /' "$WORK/figures"
grep '^wrong' "$WORK/log" | head -n 20 | sed 's/^/# /'
finish
