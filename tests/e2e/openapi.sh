#!/usr/bin/env bash
# Every operation of the OpenAPI document with requests made from the document, as an administrator and as nobody: the
# answers are those that the document lists, in their form; requests that break it are refused, requests that keep it are
# not, and nothing needs a login that the document says is open, or the other way round.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" curl jq schemathesis
port=$(free_port)
url=https://127.0.0.1:$port
password="a-password-$RANDOM"
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --listen-address 127.0.0.1 --admin-password "$password" \
    --replica-https-port "$port" --replica-http-port 0 >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
curl -skSf "$url/api/v0/openapi.json" -o "$WORK/openapi.json" || bail "there is no document"

# fuzz NAME DOCUMENT ARGUMENTS...: one result. Left out: what takes the replica away from the run (a restart, another
# certificate, a member that never comes).
fuzz() {
    local name=$1 document=$2
    shift 2
    ok "$name" timeout 200 schemathesis run "$document" --url "$url" --tls-verify false --generation-deterministic \
        --phases examples,coverage,fuzzing --max-examples "${EXAMPLES:-5}" --no-shrink \
        --exclude-path-regex '/cluster/(restart|replicas|upgrade)|/admin/settings/registry/certificate|/meta/.*ertificate' \
        --continue-on-failure --no-color --warnings off --report-dir "$WORK/report" "$@"
    note "$(grep -E 'Operations|Test cases|test cases|passed|failed' "$WORK/.last-output" | tr -s '\n ' '  ' | tail -c 300)"
}

# The check can fail: a document that promises another type is found out.
jq '.components.schemas.Alert.properties |= map_values({type: "integer"}) | .paths = {"/api/v0/meta/features": .paths["/api/v0/meta/features"]}
    | .paths["/api/v0/meta/features"].get.responses["200"].content["application/json"].schema = {type: "array"}' \
    "$WORK/openapi.json" >"$WORK/wrong.json"
refused "a document that is wrong is found out" "Response violates schema" timeout 100 schemathesis run "$WORK/wrong.json" --url "$url" --tls-verify false \
    --generation-database none --max-examples 2 --auth "admin:$password"

fuzz "as an administrator" "$WORK/openapi.json" --auth "admin:$password"
fuzz "as nobody" "$WORK/openapi.json" --exclude-checks positive_data_acceptance
finish
