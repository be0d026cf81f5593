#!/usr/bin/env bash
# Three replicas whose machines are killed, frozen and cut off while clients use all of them: what was seen of each tag is
# linearizable, what was acknowledged is there, every backup is good. SECONDS_BROKEN and SEED change the run; `cargo xtask
# cluster` makes long ones.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" cargo etcd ip unshare curl
[ "$(id -u)" = 0 ] || bail "machines of their own need root"
history() {
    cd "$ROOT" || return
    DTR_BIN=$dtr cargo xtask cluster --seconds "${SECONDS_BROKEN:-25}" ${SEED:+--seed "$SEED"} >"$WORK/figures" 2>"$WORK/log"
}
ok "one history, nothing lost, every backup good" history
note "$(cat "$WORK/figures")"
grep '^wrong' "$WORK/log" | head -n 20 | sed 's/^/# /'
finish
