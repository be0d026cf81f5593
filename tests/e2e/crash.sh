#!/usr/bin/env bash
# Promise one: what was acknowledged survives kill -9 at a random moment of a push load. ROUNDS kills (50); SEED repeats a
# run. The long one is "cargo xtask crash --rounds 500".
# timeout: 600
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" cargo
rounds=${ROUNDS:-50}
export TMPDIR=$WORK
crash() {
    DTR_BIN=$dtr cargo xtask crash --rounds "$rounds" ${SEED:+--seed "$SEED"} >"$WORK/figures" 2>"$WORK/log"
    local status=$?
    [ $status = 0 ] || tail -n 60 "$WORK/log"
    return $status
}
cd "$ROOT" || bail "no checkout"
ok "xtask is built" cargo build --quiet --package xtask
ok "after $rounds kills everything acknowledged is there, and nothing is torn" crash
note "$(cat "$WORK/figures")"
finish
