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

# fuzz NAME ARGUMENTS...: one result. Left out: what takes the replica or the login away from the run (a restart, another
# certificate, a member that never comes, the end of everybody's credentials).
fuzz() {
    local name=$1
    shift
    # In a folder of its own: it keeps a database of what it generated.
    ok "$name" in_work timeout 120 schemathesis run openapi.json --url "$url" --tls-verify false --generation-deterministic \
        --phases fuzzing --max-examples "${EXAMPLES:-3}" --no-shrink --generation-with-security-parameters false \
        --exclude-path-regex '/cluster/(restart|replicas|upgrade)|/meta/certificate|/revoke' --continue-on-failure --no-color --warnings off "$@"
    note "$(grep -E 'generated' "$WORK/.last-output")"
}
in_work() { (cd "$WORK" && "$@"); }

# The check can fail: a document that promises another type is found out.
jq '.components.schemas.Alert.properties |= map_values({type: "integer"}) | .paths = {"/api/v0/meta/features": .paths["/api/v0/meta/features"]}
    | .paths["/api/v0/meta/features"].get.responses["200"].content["application/json"].schema = {type: "array"}' \
    "$WORK/openapi.json" >"$WORK/wrong.json"
refused "a document that is wrong is found out" "Response violates schema" in_work timeout 100 schemathesis run wrong.json --url "$url" --tls-verify false \
    --generation-database none --max-examples 2 --auth "admin:$password"

# Where a page begins, and which names exist, only the registry knows: such a request may be refused.
fuzz "requests that keep the document, as an administrator" --mode positive --exclude-checks positive_data_acceptance \
    --auth "admin:$password"
# What is no HTTP at all (a header with bytes that none may have) is refused before there is a form of answers.
broken=not_a_server_error,status_code_conformance,negative_data_rejection
# A list does not mind a parameter that it does not know, which a change does.
fuzz "changes that break the document, as an administrator" --mode negative --exclude-method GET --checks "$broken" \
    --auth "admin:$password"
fuzz "as nobody" --checks "$broken,ignored_auth"
finish
