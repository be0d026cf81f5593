#!/usr/bin/env bash
# timeout: 600
# ./quickstart as a person runs it: with each client, run again over what an earlier run left, stopped.
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/engines.sh"

need skopeo
export DTR_BIN=${DTR_BIN:-$ROOT/target/debug/dtr} UCP_BIN=${UCP_BIN:-$ROOT/target/debug/ucp}
export QUICKSTART_DATA=$WORK/data QUICKSTART_UCP_PORT QUICKSTART_DTR_PORT
QUICKSTART_UCP_PORT=$(free_port)
QUICKSTART_DTR_PORT=$(free_port)
on_exit "$ROOT/quickstart" --stop
quickstart() { timeout 240 "$ROOT/quickstart" "$@"; }
quiet() { ! port_open "$QUICKSTART_UCP_PORT" && ! port_open "$QUICKSTART_DTR_PORT"; }

ok "the whole circle with skopeo" env QUICKSTART_CLIENT=skopeo timeout 240 "$ROOT/quickstart" --once
ok "--once leaves nothing running" quiet
ok "again, over what is there, with the product's own client" env QUICKSTART_CLIENT=dtr timeout 240 "$ROOT/quickstart"
ok "it stays running" "$QUICKSTART_DATA/bin/dtr" status --data-dir "$QUICKSTART_DATA/dtr"
same "passwords are for their owner alone" 600 "$(stat -c %a "$QUICKSTART_DATA/admin-password")"
ok "again while it runs" env QUICKSTART_CLIENT=dtr timeout 240 "$ROOT/quickstart"
ok "--stop" quickstart --stop
ok "--stop ends both" quiet
ok "--stop again is no error" quickstart --stop

engines_start
ENGINE_TIMEOUT=240
ok "with a Docker engine" in_engines env QUICKSTART_CLIENT=docker "$ROOT/quickstart" --once
ok "nothing is left running" quiet
refused "an unknown word is refused" "quickstart --once" quickstart --twice
finish
