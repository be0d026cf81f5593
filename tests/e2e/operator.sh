#!/usr/bin/env bash
# What an operator does at a terminal: systemd's view of the units, questions and passwords, the administrator's commands,
# settings that change while the registry runs, the certificate above all; what does not exist yet.
# timeout: 240
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" jq curl openssl script
port=$(free_port)
http_port=$(free_port)
plain_port=$(free_port)
url=https://127.0.0.1:$port
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
here="--data-dir $data"

short() { "$dtr" install --data-dir "$data" --no-start --admin-password short; }
refused "a password that is too short is refused" "8 to 1024" short
fails "before anything is written" test -e "$data/store.redb"
loud() { "$dtr" install --data-dir "$data" --no-start --log-level loud; }
refused "so is a log level that is none" "loud" loud
refused "and a port that nobody could find" "0 is not in" "$dtr" install --data-dir "$data" --no-start --replica-https-port 0
# install without a password makes one, shows it once and keeps it nowhere.
install() {
    "$dtr" install --data-dir "$data" --dtr-external-url "https://localhost:$port" --replica-https-port "$port" \
        --replica-http-port "$http_port" --listen-address 127.0.0.1
}
ok "install makes a password" install || bail "nothing works without a replica"
password=$(sed -n 's/^  password *\([0-9a-f]*\) .*/\1/p' "$WORK/.last-output")
same "and shows it" 24 "${#password}"
fails "but keeps it nowhere" grep -rq "$password" "$data"
remote="--ucp-url $url --ucp-insecure-tls --ucp-username admin"

# systemd: the units that the documents tell to install.
if command -v systemd-analyze >/dev/null; then
    mkdir "$WORK/units"
    for unit in dtr ucp; do
        sed "s|/usr/local/bin/$unit|$dtr|" "$ROOT/deploy/systemd/$unit.service" >"$WORK/units/$unit.service"
        ok "systemd takes deploy/systemd/$unit.service" systemd-analyze verify "$WORK/units/$unit.service"
    done
fi

# terminal COMMAND LINE: on a terminal, with standard input as what a person types.
terminal() { timeout 30 script -qec "$1" /dev/null; }
# answering TEXT COMMAND LINE: on a terminal; the text is typed only when it is asked for, since it is shown before.
answering() {
    local said=$WORK/terminal text=$1
    rm -f "$said" "$said.typed" && mkfifo "$said.typed"
    timeout 30 script -qec "$2" /dev/null <"$said.typed" >"$said" &
    exec 5>"$said.typed"
    wait_for 10 grep -q ': $' "$said"
    printf '%s\n' "$text" >&5
    exec 5>&-
    wait $!
}
ask_password() { answering "$password" "$dtr repo list $remote"; }
ok "the password is asked for on a terminal" ask_password
fails "and not shown" grep -q "$password" "$WORK/terminal"
new_password() { printf 'a-long-password\na-long-password\n' | terminal "$dtr user create alice $here"; }
ok "a new password is asked for twice" new_password
differing() { printf 'a-long-password\nanother-password\n' | terminal "$dtr user create bob $here"; }
refused "two that differ are refused" "differ" differing
ok "and it works" "$dtr" repo list --ucp-url "$url" --ucp-insecure-tls --ucp-username alice --ucp-password a-long-password
no() { printf 'no\n' | terminal "$dtr destroy $here"; }
refused "destroy asks, and takes no for an answer" "nothing was changed" no
refused "without a terminal it says how to answer" "\-\-yes" "$dtr" destroy --data-dir "$data"
# shellcheck disable=SC2086
without() { setsid "$dtr" repo list $remote </dev/null; }
refused "without a terminal a missing password is told" "UCP_PASSWORD" without
to_terminal() { terminal "$dtr backup $here" </dev/null; }
refused "a backup is not written to a terminal" "not written to a terminal" to_terminal

# The administrator's commands, for programs.
json() { "$dtr" "$@" --data-dir "$data" -o json; }
quiet() { json "$@" >/dev/null; }
ok "an organization" quiet org create engineering --full-name "The engineers"
ok "a member" quiet org add-member engineering alice
ok "a team" quiet team create engineering developers
ok "a member of it" quiet team add-member engineering developers alice
ok "a repository" quiet repo create engineering/web --description "Front"
ok "a team's level" quiet grant set engineering/web developers read-write
same "users" "admin alice" "$(json user list | jq -r '[.[].name] | sort | join(" ")')"
same "members" alice "$(json team members engineering developers | jq -r '.[0].member.name // .[0].name')"
same "levels" read-write "$(json grant list engineering/web | jq -r '.[0].accessLevel')"
same "repositories" engineering/web "$(json repo list | jq -r '.[] | "\(.namespace)/\(.name)"')"
ok "a repository changes" quiet repo update engineering/web --visibility public --immutable-tags true
same "and shows it" "public true" "$(json repo show engineering/web | jq -r '"\(.visibility) \(.immutableTags)"')"
same "no tags yet" 0 "$(json tag list engineering/web | jq length)"
ok "a user is switched off" quiet user update alice --is-active false
refused "and told so" "not active|inactive|disabled|deactivated" "$dtr" repo list --ucp-url "$url" --ucp-insecure-tls --ucp-username alice --ucp-password a-long-password
export UCP_PASSWORD=$password
# shellcheck disable=SC2086
token() { "$dtr" token "$@" $remote -o json; }
id=$(token create laptop --expires 2099-01-01T00:00:00Z --pull-only | jq -r .hashedToken)
same "an access token is listed" laptop "$(token list | jq -r '.[0].label // .[0].tokenLabel')"
ok "switched off" token update "$id" --active false
ok "deleted" token delete "$id"
refused "tokens belong to somebody" "ucp-url" "$dtr" token list --data-dir "$data"
refused "a user with repositories or members is not deleted in passing" "repositor" "$dtr" org delete engineering --data-dir "$data"
refused "what does not exist is named" "nobody" "$dtr" user show nobody --data-dir "$data"
ok "gc says what it would remove" "$dtr" gc --dry-run --data-dir "$data"
ok "gc removes it" "$dtr" gc --run --data-dir "$data"
refused "gc wants to know which" "dry-run" "$dtr" gc --data-dir "$data"
ok "status" "$dtr" status --data-dir "$data"
same "the images of an installation" 2 "$("$dtr" images | grep -c '^docker/')"
ok "upgrade has nothing to do" "$dtr" upgrade --data-dir "$data"
refused "nothing is removed from a store that is for one replica" "for one replica" "$dtr" remove --data-dir "$data" --replica-ids 0123456789ab
refused "nor repaired" "no majority to lose" "$dtr" emergency-repair --data-dir "$data" --ucp-url "$url" --ucp-insecure-tls --prune --yes
refused "a folder without a replica is told" "no replica is installed|not running" "$dtr" status --data-dir "$WORK/nowhere"

# The address for clients changes while the registry runs: redirect, certificate, what commands find.
names() {
    openssl s_client -connect "127.0.0.1:$port" -servername "${1:-localhost}" </dev/null 2>/dev/null |
        openssl x509 -noout -ext subjectAltName -fingerprint
}
redirected() { curl -s -o /dev/null -w '%{redirect_url}' "http://127.0.0.1:$http_port/v2/"; }
same "the plain port sends clients to HTTPS" "https://localhost:$port/v2/" "$(redirected)"
ok "another address for clients" "$dtr" reconfigure --data-dir "$data" --dtr-external-url "https://new.example:$port"
has_new_name() { names | grep -q 'DNS:new.example'; }
ok "the certificate gets its name" wait_for 10 has_new_name
same "the plain port sends clients there" "https://new.example:$port/v2/" "$(redirected)"
listed() { curl -sSk -u "admin:$password" "$url/enzi/v0/services" | jq -e --arg url "https://new.example:$port" 'any(.. | strings; . == $url)'; }
ok "the identity service is told" wait_for 10 listed

# The certificate is exchanged while connections run.
make_certificate "$WORK/tls" new.example
ours=$(names)
mkfifo "$WORK/slow"
head -c 3000000 /dev/urandom >"$WORK/blob"
digest=sha256:$(sha256sum "$WORK/blob" | cut -d' ' -f1)
at=$(curl -sSk -u "admin:$password" -D - -o /dev/null -X POST -d '' "$url/v2/engineering/web/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
curl -sSk -u "admin:$password" -o /dev/null -w '%{http_code}' -X PUT -H 'Content-Type: application/octet-stream' \
    --http1.1 -T "$WORK/slow" "$url${at#"$url"}?digest=$digest" >"$WORK/slow-status" &
slow=$!
exec 4>"$WORK/slow"
head -c 1000000 "$WORK/blob" >&4
refused "a key that does not fit is refused" "key" "$dtr" reconfigure --data-dir "$data" --dtr-cert "$(cat "$WORK/tls/cert.pem")" --dtr-key "$(cat "$WORK/tls/ca-key.pem")"
same "and the old certificate stays" "$ours" "$(names)"
ok "an own certificate" "$dtr" reconfigure --data-dir "$data" --dtr-cert "$(cat "$WORK/tls/cert.pem")" \
    --dtr-key "$(cat "$WORK/tls/key.pem")" --dtr-ca "$(cat "$WORK/tls/ca.pem")"
verified() { curl -sSf --cacert "$WORK/tls/ca.pem" --resolve "new.example:$port:127.0.0.1" "https://new.example:$port/_ping"; }
ok "new connections see it, without a restart" wait_for 10 verified
tail -c +1000001 "$WORK/blob" >&4
exec 4>&-
wait "$slow"
same "an upload that ran meanwhile came to its end" 201 "$(cat "$WORK/slow-status")"
same "/ca serves what clients are to trust" "$(cat "$WORK/tls/ca.pem")" "$(curl -sSk "$url/ca")"
backup() { "$dtr" backup --ucp-url "https://localhost:$port" --ucp-ca "$(cat "$WORK/tls/ca.pem")" --ucp-username admin --output "$WORK/backup.tar"; }
ok "a backup is taken over it" backup
ok "the cluster's own again" "$dtr" reconfigure --data-dir "$data" --no-dtr-cert
has_ours() { names | grep -q 'DNS:new.example.*DNS:localhost\|DNS:localhost.*DNS:new.example' && ! verified; }
ok "new connections see that" wait_for 10 has_ours

# What holds from the next start, and can be taken back.
restart() {
    stop_pid "$(cat "$data/dtr.pid")"
    "$dtr" serve --data-dir "$data" >>"$data/dtr.log" 2>&1 &
    wait_for 20 port_open "$port"
}
ok "a plain listener" "$dtr" reconfigure --data-dir "$data" --plain-http "127.0.0.1:$plain_port" --trusted-proxies 127.0.0.1/32,10.0.0.0/8 --log-format json
ok "restart" restart
ok "it answers" curl -sSf "http://127.0.0.1:$plain_port/_ping"
same "what was pushed is there" 3000000 "$(curl -sSfk -u "admin:$password" "$url/v2/engineering/web/blobs/$digest" | wc -c)"
refused "a proxy that is none is refused" "trusted-proxies" "$dtr" reconfigure --data-dir "$data" --trusted-proxies nonsense
refused "nothing to change is told" "nothing to change" "$dtr" reconfigure --data-dir "$data"
ok "both are taken back" "$dtr" reconfigure --data-dir "$data" --no-plain-http --no-trusted-proxies
same "neither is configured any more" "null null" "$(jq -r '"\(.plainHttp) \(.trustedProxies)"' "$data/replica.json")"
mkdir "$WORK/storage"
refused "another storage must hold the blobs" "storage-migrated" "$dtr" reconfigure --data-dir "$data" --dtr-storage-volume "$WORK/storage"
cp -a "$data/blobs/." "$WORK/storage/"
ok "another storage" "$dtr" reconfigure --data-dir "$data" --dtr-storage-volume "$WORK/storage" --storage-migrated
ok "restart" restart
fails "the plain listener is closed" port_open "$plain_port"
same "what was pushed is there" 3000000 "$(curl -sSfk -u "admin:$password" "$url/v2/engineering/web/blobs/$digest" | wc -c)"
ok "the usual storage again" "$dtr" reconfigure --data-dir "$data" --dtr-use-default-storage --storage-migrated
finish
