#!/usr/bin/env bash
# A UCP of its own: a registry registered with it, the UCP away and back, its backup and restore, encrypted too, and a
# registry that finds its accounts again after both were lost.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
ucp=${UCP_BIN:-$ROOT/target/debug/ucp}
need "$dtr" "$ucp" etcd skopeo jq curl age script
ucp_port=$(free_port)
port=$(free_port)
ucp_url=https://127.0.0.1:$ucp_port
url=https://127.0.0.1:$port
id=0123456789ab
password="a-password-$RANDOM"
echo "correct horse battery staple" >"$WORK/passphrase"
echo "wrong horse" >"$WORK/wrong-passphrase"
ucp_place="--host-address 127.0.0.1 --listen-address 127.0.0.1 --controller-port $ucp_port"
place="--replica-https-port $port --replica-http-port 0 --listen-address 127.0.0.1"
admin="--ucp-url $ucp_url --ucp-insecure-tls --ucp-username admin"
export UCP_PASSWORD=$password
stop_all() {
    "$dtr" destroy --data-dir "$WORK/dtr" --yes
    "$ucp" stop --data-dir "$WORK/ucp"
    "$ucp" stop --data-dir "$WORK/ucp-again"
    "$dtr" destroy --data-dir "$WORK/own" --yes
    "$dtr" destroy --data-dir "$WORK/other" --yes
    "$ucp" stop --data-dir "$WORK/ucp-new"
}
on_exit stop_all

# shellcheck disable=SC2086
ok "ucp install" "$ucp" install --data-dir "$WORK/ucp" --admin-password "$password" $ucp_place || bail "nothing works without a UCP"
ok "ucp status" "$ucp" status --data-dir "$WORK/ucp"
# shellcheck disable=SC2086
install() { "$dtr" install --data-dir "$WORK/dtr" --replica-id $id --dtr-external-url "$url" $admin $place "$@"; }
wrong() { UCP_PASSWORD=nonsense install; }
refused "a wrong password is told before anything is written" "wrong" wrong
fails "and nothing is" test -e "$WORK/dtr"
ok "dtr install" install || bail "nothing works without a replica"
# shellcheck disable=SC2086
dtr() { "$dtr" "$@" $admin; }
ok "an organization" dtr org create engineering
user() { DTR_USER_PASSWORD=alices-password dtr user create alice; }
ok "a user" user
ok "a team" dtr team create engineering developers
ok "a member" dtr team add-member engineering developers alice
ok "a repository" dtr repo create engineering/web
ok "a level" dtr grant set engineering/web developers read-write
layout=$WORK/layout
image_oci "$layout" 1.0
image=$(jq -r '.manifests[0].digest' "$layout/index.json")
push() { skopeo copy --quiet --dest-tls-verify=false --dest-creds "alice:$1" "oci:$layout:1.0" "docker://127.0.0.1:$port/engineering/web:$2"; }
ok "the member pushes" push alices-password 1.0
refused "a wrong password is refused" "unauthorized|wrong" push nonsense 2.0
access_token=$(dtr token create ci -o json | jq -r .token)

# A nightly backup needs no administrator's password, also where a UCP keeps the accounts: the token is the registry's.
backup_token=$(dtr token create nightly --backups-only -o json | jq -r .token)
nightly() { UCP_TOKEN=$backup_token "$dtr" "$@" --ucp-url "$url" --ucp-insecure-tls; }
ok "a token for backups takes one" nightly backup --output "$WORK/nightly.tar"
ok "and it is a good one" "$dtr" backup verify "$WORK/nightly.tar"
ok "it sees the status" nightly status
refused "and no repositories" "does not allow" nightly repo list
refused "nor accounts" "access token is not enough" nightly user list
at_ucp() { UCP_TOKEN=$backup_token "$dtr" status --ucp-url "$ucp_url" --ucp-insecure-tls; }
refused "the UCP is not told of it" "is no registry" at_ucp

# The day of a compromise: the account's session at the UCP, its tokens here, and what was made of them.
alice_session=$(curl -sSk "$ucp_url/id/login" -H 'Content-Type: application/json' -d '{"username":"Alice ","password":"alices-password"}' | jq -r .sessionToken)
who() { curl -sSfk -H "Authorization: Bearer $alice_session" "$ucp_url/id/"; }
ok "a session, whose user's name was typed in another case" who
ok "everything of an account is ended" dtr revoke --user alice
fails "the session is over" who
exported() { dtr events export --since 2020-01-01T00:00:00Z --without-pulls >"$WORK/audit.jsonl" && jq -es 'map(select(.object.type == "credentials" and .object.name == "alice")) | length == 1' "$WORK/audit.jsonl"; }
ok "which the audit log says" exported

# A token as docker gets one, and a session, before the UCP goes.
scope="repository:engineering/web:pull,push"
fetch_token() { curl -sSk -u "$1" "$url/auth/token?service=127.0.0.1:$port&scope=$scope" --max-time 20; }
bearer=$(fetch_token alice:alices-password | jq -r .token)
pull() { curl -sSfk --max-time 20 -H "Authorization: Bearer $bearer" "$url/v2/engineering/web/manifests/1.0" -H 'Accept: application/vnd.oci.image.manifest.v1+json' -o "$WORK/pulled"; }
ok "a token pulls" pull
ok "ucp stop" "$ucp" stop --data-dir "$WORK/ucp"
ok "a token that runs goes on" pull
began=$SECONDS
answer=$(fetch_token bob:unknown)
if echo "$answer" | jq -r '.errors[0].message // .details' | grep -Eq "identity service|UCP"; then
    pass "a new login says why not"
else
    fail "a new login says why not: $answer"
fi
refused "so does the command line" "reach|identity service|UCP" dtr repo list
refused "so does skopeo" "identity service|UCP|Service Unavailable|503" push alices-other-password 3.0
if [ $((SECONDS - began)) -le 60 ]; then pass "and nothing hangs"; else fail "it took $((SECONDS - began)) s"; fi
local_backup() { "$dtr" backup --data-dir "$WORK/dtr" --output "$WORK/away.tar"; }
ok "a local backup needs no UCP" local_backup
status() { "$dtr" status --data-dir "$WORK/dtr"; }
refused "status names what is wrong" "identity service|UCP" status
serve_ucp() {
    "$ucp" serve --data-dir "${1:-$WORK/ucp}" >>"$WORK/ucp.log" 2>&1 &
    wait_for 20 port_open "$ucp_port"
}
ok "the UCP is back" serve_ucp
again() { push alices-password 2.0; }
ok "and logins work, without a restart" wait_for 60 again

# Backups of the UCP.
plain() { "$ucp" backup --data-dir "$WORK/ucp" --no-passphrase >"$WORK/ucp.tar"; }
ok "ucp backup" plain
ok "tar lists it" tar -tf "$WORK/ucp.tar"
ok "ucp backup, encrypted" "$ucp" backup --data-dir "$WORK/ucp" --passphrase-file "$WORK/passphrase" --output "$WORK/ucp.age"
typed() { timeout 60 script -qec "age -d -o $WORK/ucp-by-age.tar $WORK/ucp.age" /dev/null <"$WORK/passphrase" && tar -tf "$WORK/ucp-by-age.tar"; }
ok "age opens it" typed
# shellcheck disable=SC2086
over_network() { "$ucp" backup --ucp-url "$ucp_url" --ucp-insecure-tls --ucp-username admin --passphrase-file "$WORK/passphrase" >"$WORK/ucp-network.age"; }
ok "ucp backup over the network" over_network
ok "a backup of the registry with images" dtr backup --existing-replica-id $id --with-images --output "$WORK/dtr.tar"
ok "and with the accounts" dtr backup --existing-replica-id $id --with-identity --with-images --output "$WORK/with-identity.tar"
refused "a backup of the registry is no backup of a UCP" "dtr" "$ucp" restore --data-dir "$WORK/ucp-again" --no-passphrase --no-start <"$WORK/dtr.tar"

# Both are lost.
# shellcheck disable=SC2086
ok "destroy, and be forgotten by the UCP" "$dtr" destroy --data-dir "$WORK/dtr" --yes $admin
services() { curl -sSk -u "admin:$password" "$ucp_url/enzi/v0/services" | jq '.services | length'; }
same "the UCP lists no registry" 0 "$(services)"
ok "the UCP is stopped" "$ucp" stop --data-dir "$WORK/ucp"
rm -rf "$WORK/ucp"
# shellcheck disable=SC2086
ucp_restore() { "$ucp" restore --data-dir "$WORK/ucp-again" --passphrase-file "$1" $ucp_place <"$WORK/ucp.age"; }
refused "a wrong passphrase is told" "passphrase" ucp_restore "$WORK/wrong-passphrase"
ok "ucp restore" ucp_restore "$WORK/passphrase"
# shellcheck disable=SC2086
restore() { "$dtr" restore --data-dir "$WORK/dtr" $admin --dtr-load-balancer "$url" $place "$@" <"${from:-$WORK/dtr.tar}"; }
head -c 9000 "$WORK/dtr.tar" >"$WORK/cut.tar"
before=$(services)
refused_restore() { from=$WORK/cut.tar restore; }
refused "a restore from a cut archive is refused" "cut" refused_restore
same "nothing of it stays at the UCP" "$before" "$(services)"
fails "nor on the disk" test -e "$WORK/dtr/store.redb"
there() { find "$WORK/dtr" 2>&1 | sort; }
was=$(there)
ok "a dry run" restore --dry-run
same "makes nothing" "$was" "$(there)"
same "nothing of that either" "$before" "$(services)"
# The UCP that came back knows the registry that was lost.
beside() { restore --dry-run >"$WORK/beside" 2>&1 && grep "stays registered beside this one" "$WORK/beside"; }
ok "the lost registry stays registered unless it is told to go" beside
ok "dtr restore, in its place" restore --replace-registration
same "which is the only one that the UCP lists" 1 "$(services)"
pulls() { skopeo copy --quiet --src-tls-verify=false --src-creds "$1" "docker://127.0.0.1:$port/engineering/web:1.0" "dir:$WORK/from-$RANDOM"; }
ok "the member of before pulls" pulls alice:alices-password
ok "so does the access token of before" pulls "admin:$access_token"
skopeo copy --quiet --src-tls-verify=false --src-creds alice:alices-password "docker://127.0.0.1:$port/engineering/web:1.0" "dir:$WORK/compared"
same "with the same digest" "$image" "$(file_digest "$WORK/compared/manifest.json")"
found() { dtr backup --output "$WORK/after.tar"; }
ok "commands find the restored replica through the restored UCP" found

# The UCP forgets the registry, as after a restore elsewhere that took its place: it says so, and is registered anew.
service=$(curl -sSk -u "admin:$password" "$ucp_url/enzi/v0/services" | jq -r '.services[0].id')
ok "its registration is taken away" curl -sSfk -u "admin:$password" -X DELETE "$ucp_url/enzi/v0/services/$service"
ping_says() { curl -sSk "$url/_ping" | grep -q "$1"; }
ok "the registry notices" wait_for 20 ping_says "does not know this registry"
status() { "$dtr" status --data-dir "$WORK/dtr"; }
refused "its status says so" "critical: .*does not know this registry" status
refused "nobody logs in" "." pulls alice:alices-password
# shellcheck disable=SC2086
ok "it is registered anew" "$dtr" reconfigure --data-dir "$WORK/dtr" --drain-seconds 0 $admin
ok "and well again" wait_for 20 ping_says '"Error":""'
ok "the member pulls as before" pulls alice:alices-password
ok "commands find it again" found

# The UCP is lost for good, its backup too: a new one gets the accounts from the registry's archive.
# shellcheck disable=SC2086
ok "destroy again" "$dtr" destroy --data-dir "$WORK/dtr" --yes $admin
ok "the UCP is stopped again" "$ucp" stop --data-dir "$WORK/ucp-again"
password="another-password-$RANDOM"
export UCP_PASSWORD=$password
# shellcheck disable=SC2086
ok "a new UCP" "$ucp" install --data-dir "$WORK/ucp-new" --admin-password "$password" $ucp_place
enzi() { curl -sSk --max-time 20 -u "$1" "$ucp_url/enzi/v0/$2" "${@:3}"; }
same "it knows nobody" admin "$(enzi "admin:$password" "accounts?limit=100" | jq -r '.accounts[].name')"
with_identity() { from=$WORK/with-identity.tar restore --with-identity "$@"; }
without_any() { from=$WORK/dtr.tar restore --with-identity; }
refused "an archive without accounts is told" "identity|accounts" without_any
unknown() { from=$WORK/with-identity.tar restore; }
refused "without them, owners are unknown" "engineering" unknown
dry() { with_identity --dry-run >"$WORK/dry"; }
ok "a dry run with them" dry
ok "says how many would be made" grep -E "accounts: 2 would be made in the UCP, 1 are there" "$WORK/dry"
same "loads nobody" admin "$(enzi "admin:$password" "accounts?limit=100" | jq -r '.accounts[].name')"
ok "dtr restore --with-identity" with_identity
same "everybody is there" "admin alice engineering" "$(enzi "admin:$password" "accounts?limit=100" | jq -r '[.accounts[].name] | sort | join(" ")')"
same "the team too" alice "$(enzi "admin:$password" accounts/engineering/teams/developers/members | jq -r '.members[].member.name')"
ok "the member pulls with the password of before" pulls alice:alices-password
ok "so does the administrator with the new one" pulls "admin:$password"
fails "and not with that of before" pulls "admin:a-password-of-before"
ok "the access token of before belongs to the administrator of here" pulls "admin:$access_token"
ok "the team's level holds: the member pushes" push alices-password 4.0
same "a member gets no password hashes" 403 "$(enzi alice:alices-password admin/exportAccounts -o /dev/null -w '%{http_code}')"
same "nor puts accounts in" 403 "$(enzi alice:alices-password admin/importAccounts -X POST -H 'Content-Type: application/json' -d '{}' -o /dev/null -w '%{http_code}')"
hashes() { tar -xOf "$1" --wildcards '*/identity/credentials.jsonl' | grep -c argon2id; }
restored_id=$(enzi "admin:$password" services | jq -r '.services[0].replicas[0].id')
ok "a backup by password" dtr backup --existing-replica-id "$restored_id" --with-identity --output "$WORK/hashes.tar"
same "has the hashes" 2 "$(hashes "$WORK/hashes.tar")"
curl -sSk --max-time 60 -u "admin:$access_token" -X POST "$url/api/v0/backups?withIdentity=true" -D "$WORK/headers" -o "$WORK/no-hashes.tar"
same "one by access token has none" 0 "$(hashes "$WORK/no-hashes.tar")"
not_in_it=$(curl -sSk -u "admin:$password" "$url/api/v0/backups/$(tr -d '\r' <"$WORK/headers" | sed -n 's/^x-dtr-backup-id: //Ip')/report" | jq -r '.notIncluded[].what')
if echo "$not_in_it" | grep -q "password hashes"; then pass "and says so"; else fail "it says: $not_in_it"; fi
inspect() { "$dtr" backup inspect "$1" | grep -E "^accounts +$2\$"; }
ok "inspect tells the one" inspect "$WORK/hashes.tar" yes
ok "from the other" inspect "$WORK/no-hashes.tar" "yes, without password hashes"
by_socket() { "$dtr" backup --data-dir "$WORK/dtr" --with-identity --output "$WORK/by-socket.tar" >"$WORK/by-socket" 2>&1; }
ok "a local backup" by_socket
ok "says that it has no hashes" grep "password hashes of the UCP's users" "$WORK/by-socket"
no_hashes() { inspect "$WORK/by-socket.tar" "yes, without password hashes"; }
ok "and has none" no_hashes

# A second time nothing changes.
all() { enzi "admin:$password" admin/exportAccounts | jq -S .; }
loaded=$(all)
# shellcheck disable=SC2086
ok "destroy once more" "$dtr" destroy --data-dir "$WORK/dtr" --yes $admin
ok "the same restore again" with_identity
same "finds everybody, and changes nothing" "$loaded" "$(all)"

# What may not be put in.
refuses() { # NAME STATUS BODY
    same "$1" "$2" "$(enzi "admin:$password" admin/importAccounts -H 'Content-Type: application/json' -d "$3" -o "$WORK/refusal" -w '%{http_code}')"
}
uuid=00000000-0000-4000-8000-000000000001
mallory='{"id":"'$uuid'","name":"mallory","isOrg":false,"isAdmin":true,"isActive":true,"createdAt":"2026-01-01T00:00:00Z"}'
hash() { printf '{"accounts":[%s],"credentials":[{"account":"%s","passwordHash":"%s","changedAt":"2026-01-01T00:00:00Z"}]}' "$mallory" $uuid "$1"; }
refuses "no hash is put in" 400 "$(hash let-me-in)"
# shellcheck disable=SC2016
refuses "nor one that takes 4 GiB to check" 400 "$(hash '$argon2id$v=19$m=4194304,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA')"
refuses "nor an organization as administrator" 409 '{"accounts":['"${mallory/\"isOrg\":false/\"isOrg\":true}"']}'
alices_org=${mallory/\"name\":\"mallory\"/\"name\":\"engineering\"}
refuses "nor a user in the place of an organization" 409 '{"accounts":['"$alices_org"']}'
same "nothing of it is made" "$loaded" "$(all)"

# The accounts of a registry that kept its own move to the UCP.
own_port=$(free_port)
own_place="--replica-https-port $own_port --replica-http-port 0 --listen-address 127.0.0.1 --dtr-external-url https://127.0.0.1:$own_port"
# shellcheck disable=SC2086
ok "a registry with accounts of its own" "$dtr" install --data-dir "$WORK/own" --admin-username owner --admin-password owners-password $own_place
own() { "$dtr" "$@" --data-dir "$WORK/own"; }
dave() { DTR_USER_PASSWORD=daves-password own user create dave; }
ok "with a user" dave
ok "and a repository" own repo create dave/app
ok "its backup" own backup --output "$WORK/own.tar"
ok "it is destroyed" "$dtr" destroy --data-dir "$WORK/own" --yes
# shellcheck disable=SC2086
etcd() { echo "--etcd-client-port $(free_port) --etcd-peer-port $(free_port) --dtr-storage-volume $WORK/images"; }
# shellcheck disable=SC2086,SC2046
moved() { "$dtr" restore --data-dir "$WORK/own" --store etcd $(etcd) --replica-id 00000000000a $admin $own_place --with-identity <"$WORK/own.tar"; }
ok "its restore, with the accounts into the UCP" moved
same "the user logs in there" 200 "$(enzi dave:daves-password accounts/dave -o /dev/null -w '%{http_code}')"
dave_pushes() { skopeo copy --quiet --dest-tls-verify=false --dest-creds dave:daves-password "oci:$layout:1.0" "docker://127.0.0.1:$own_port/dave/app:1.0"; }
ok "and pushes to what is its own" dave_pushes

# Another replica joins it through the UCP, and goes again.
other_port=$(free_port)
through() { echo "$admin --existing-replica-id 00000000000a"; }
# shellcheck disable=SC2046
join() {
    "$dtr" join --data-dir "$WORK/other" --replica-id 00000000000b --replica-https-port "$other_port" --replica-http-port 0 \
        --listen-address 127.0.0.1 $(etcd) $(through)
}
ok "another replica joins through the UCP" join
daves_image() { skopeo inspect --tls-verify=false --creds dave:daves-password --raw "docker://127.0.0.1:$1/dave/app:1.0"; }
ok "the user pulls from it" daves_image "$other_port"
# shellcheck disable=SC2046
ok "it is removed" "$dtr" remove $(through) --replica-ids 00000000000b
listed() { enzi "admin:$password" services | jq -e '[.services[].replicas[].id] | index("00000000000b") == null' >/dev/null; }
ok "the UCP is told" wait_for 20 listed
ok "it is destroyed" "$dtr" destroy --data-dir "$WORK/other" --yes
ok "and the image that both had is still there" daves_image "$own_port"
finish
