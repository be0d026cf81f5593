#!/usr/bin/env bash
# Three replicas on three machines: what joins, what is refused, what a loss costs. Uploads that jump between replicas, a
# machine that dies, one that is cut off, the majority gone and back. What is mended by hand: runbooks.sh.
# timeout: 660
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network
. "$ROOT/tests/lib/images.sh"
. "$ROOT/tests/lib/hosts.sh"
. "$ROOT/tests/lib/conformance.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" etcd skopeo jq curl conformance
hosts 5
password=a-password-of-many
export UCP_PASSWORD=$password DTR_ADMIN_PASSWORD=$password
shared=$WORK/shared
id() { printf "%012d" "$1"; }
url() { echo "https://$(address "$1")"; }
folder() { echo "$WORK/$1"; }
place() { echo "--data-dir $(folder "$1") --replica-id $(id "$1") --listen-address $(address "$1") --dtr-storage-volume ${2:-$shared}"; }
through() { echo "--ucp-url $(url "$1") --ucp-insecure-tls --ucp-username admin --existing-replica-id $(id "$1")"; }
api() { curl -sk -u "admin:$password" "$@"; }
code() { api -o /dev/null -w '%{http_code}' "$@"; }
# shellcheck disable=SC2046
join() { on "$1" "$dtr" join $(place "$1" "${3:-$shared}") $(through "$2"); }
serve() { on "$1" setsid "$dtr" serve --detached --data-dir "$(folder "$1")" >>"$(folder "$1")/dtr.log" 2>&1 & }
status() { "$dtr" status --data-dir "$(folder "$1")" -o json; }
is_well() { [ "$(curl -sk -o /dev/null -w '%{http_code}' "$(url "$1")/_ping")" = 200 ]; }
# The machine loses its power: the replica and its etcd end at once.
kill_machine() { ip netns pids "$HOSTS_NAME-$1" | xargs -r kill -KILL; }
digest_at() { api -o /dev/null -D - -H 'accept: */*' -I "$(url "$1")/v2/admin/app/manifests/$2" | tr -d '\r' | sed -n 's/^docker-content-digest: //p'; }
push() { skopeo copy --quiet --dest-tls-verify=false --dest-creds "admin:$password" "oci:$WORK/layout:1" "docker://$(address "$1")/admin/app:$2"; }
gone() { ! ip netns pids "$HOSTS_NAME-$1" | grep -q .; }
stop_machines() { for n in 1 2 3 4 5; do kill_machine "$n"; done; }
on_exit stop_machines

# shellcheck disable=SC2046
ok "the first replica, with an etcd of its own" on 1 "$dtr" install --store etcd $(place 1) || bail "nothing works without it"
ok "a second one joins" join 2 1
refused "one that does not share the storage is refused" "must share" join 3 1 "$WORK/elsewhere"
fails "and leaves nothing" test -e "$(folder 3)"
refused "one with an id that is there is refused" "is a member already" on 3 "$dtr" join --data-dir "$(folder 3)" \
    --replica-id "$(id 2)" --listen-address "$(address 3)" --dtr-storage-volume "$shared" $(through 1)
ok "a third joins" join 3 2
same "the status knows three that vote" 3 "$(status 3 | jq '[.members[] | select(.votes)] | length')"
same "and are well" '["OK"]' "$(status 1 | jq -c '[.replica_health[]] | unique')"
same "the identity service lists all of them" 3 "$(api "$(url 1)/enzi/v0/services" | jq '[.services[].replicas[]] | length')"

# What may be had with a certificate and a key of another's (in a folder, as replica.pem and replica.key), or with none. etcd
# compares a certificate with where it comes from: so it is presented by the machine that it was made for, 2 unless named.
make_certificate "$WORK/other" stranger
mkdir "$WORK/stranger"
mv "$WORK/other/cert.pem" "$WORK/stranger/replica.pem"
mv "$WORK/other/key.pem" "$WORK/stranger/replica.key"
ca=$(folder 1)/etcd/ca.pem
ask_etcd() {
    local from=$1 with=$2
    shift 2
    on "$from" curl -sf --max-time 3 --cacert "$ca" ${with:+--cert "$with/replica.pem" --key "$with/replica.key"} "$@"
}
from_etcd() {
    ask_etcd "${3:-2}" "${2:-}" "https://$(address "$1"):2379/v3/kv/range" \
        -d '{"key":"AA==","range_end":"AA==","limit":1,"keys_only":true}' | jq -e '.kvs | length == 1'
}
from_peer() { ask_etcd "${3:-2}" "${2:-}" --http1.1 "https://$(address "$1"):2380/members" | grep -q peerURLs; }
from_replica() { curl -skf --max-time 3 ${2:+--cert "$2/replica.pem" --key "$2/replica.key"} "$(url "$1")/api/v0/meta/cluster_status"; }
for n in 1 2 3; do
    ok "replica $n's etcd answers another replica" wait_for 20 from_etcd "$n" "$(folder 2)/etcd"
    ok "and so does its port for members" wait_for 20 from_peer "$n" "$(folder 2)/etcd"
    for stranger in "$WORK/stranger" ""; do
        with=${stranger:+with a certificate of another authority}
        fails "who comes ${with:-without a certificate} gets nothing from etcd $n" from_etcd "$n" "$stranger"
        fails "nor from its port for members" from_peer "$n" "$stranger"
        fails "nor from the replica" from_replica "$n" "$stranger"
    done
done

image_oci "$WORK/layout" 1
ok "a repository" api -f -o /dev/null "$(url 1)/api/v0/repositories/admin" -H 'content-type: application/json' -d '{"name":"app"}'
ok "an image is pushed to one" push 1 first
image=$(jq -r '.manifests[0].digest' "$WORK/layout/index.json")
for n in 1 2 3; do same "replica $n has it at once" "$image" "$(digest_at "$n" first)"; done

# All restart, one after the other, while a client goes on through whichever says that it is well, as behind a load balancer.
pulls() {
    local n failed=0 done=0
    while [ ! -e "$WORK/restarted" ]; do
        for n in 1 2 3; do
            is_well "$n" || continue
            done=$((done + 1))
            [ "$(digest_at "$n" first)" = "$image" ] && push "$n" "while-$n" || failed=$((failed + 1))
        done
    done
    echo "$((done > 5)) $failed" >"$WORK/pulled"
}
pulls 2>"$WORK/pulls.log" &
client=$!
# shellcheck disable=SC2046
ok "all are restarted, one after the other" "$dtr" reconfigure $(through 1) --restart --drain-seconds 1
touch "$WORK/restarted"
wait "$client"
same "a client met no error meanwhile" "1 0" "$(cat "$WORK/pulled")"
ok "each of them was" sh -c "grep -l 'restarted, and well' $(folder 1)/dtr.log $(folder 2)/dtr.log $(folder 3)/dtr.log | wc -l | grep -qx 3"
# shellcheck disable=SC2046
same "an upgrade finds nothing to do then" 1 "$("$dtr" upgrade $(through 2) | grep -c 'format 1 already')"

# One that is about to go when another dies stays, and goes when that one is back.
restart() { api -f "$(url 1)/api/v0/cluster/restart" "$@"; }
restarts() { grep -c 'restarted, and well' "$(folder "$1")/dtr.log"; }
before=$(restarts 1)
ok "one is to restart" restart -o /dev/null -H 'content-type: application/json' -d "{\"replicas\":[\"$(id 1)\"],\"drainSeconds\":6}"
going() { curl -sk "$(url 1)/_ping" | grep -q 'about to .*restart'; }
ok "it says so, and waits" wait_for 20 going
kill_machine 3
ok "as another dies meanwhile, it stays" wait_for 20 is_well 1
ok "and says why" grep -q "is to restart, and waits: dtr-$(id 3)" "$(folder 1)/dtr.log"
same "and has not restarted" "$before" "$(restarts 1)"
serve 3
again() { [ "$(restarts 1)" -gt "$before" ]; }
ok "when that one is back, it does" wait_for 90 again
for n in 1 2 3; do ok "and replica $n is well" wait_for 30 is_well "$n"; done
mkdir "$WORK/another" && cp -a "$shared/." "$WORK/another/"
refused "the storage is not changed under those who push" "read-only first" "$dtr" reconfigure --data-dir "$(folder 1)" \
    --dtr-storage-volume "$WORK/another" --storage-migrated

# An upload is begun on one replica, goes on at the second and ends at the third, which never saw the bytes.
head -c 3000000 /dev/urandom >"$WORK/blob"
upload=$(api -i -X POST "$(url 1)/v2/admin/app/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p' | sed 's#^https://[^/]*##')
split -b 1000000 "$WORK/blob" "$WORK/part-"
part() { api -f -X "$1" -H 'content-type: application/octet-stream' --data-binary "@$WORK/part-$2" "$3"; }
jump() {
    part PATCH aa "$(url 1)$upload" && part PATCH ab "$(url 2)$upload" &&
        part PUT ac "$(url 3)$upload?digest=$(file_digest "$WORK/blob")"
}
ok "an upload jumps between three replicas" jump
back() { api "$(url 2)/v2/admin/app/blobs/$(file_digest "$WORK/blob")" | cmp - "$WORK/blob"; }
ok "and is what was sent" back

kill_machine 2
ok "one of three dies: pushes go on" push 1 without-two
same "and are seen by the other" "$image" "$(digest_at 3 without-two)"
tells_of_two() { status 1 | jq -e --arg id "$(id 2)" '.members[] | select(.replica == $id) | .problem' | grep -qv null; }
ok "the status tells of it" tells_of_two
refused "none joins while one is silent" "do not answer" join 4 1
refused "one more cannot be removed" "must answer" "$dtr" remove $(through 1) --replica-ids "$(id 3)"
serve 2
ok "it comes back" wait_for 30 is_well 2
same "and knows what it missed" "$image" "$(digest_at 2 without-two)"

# It starts before its share is mounted: an empty folder is there instead.
kill_machine 2
unmounted() { on 2 sh -c "mount -t tmpfs none '$shared' && exec setsid '$dtr' serve --detached --data-dir '$(folder 2)'" >>"$(folder 2)/dtr.log" 2>&1 & }
unmounted
says() { curl -sk --max-time 10 "$(url "$1")/_ping" | grep -q "$2"; }
ok "one that starts before its share is mounted says so" wait_for 30 says 2 "the share is not mounted"
same "and takes no push" 503 "$(code -X POST "$(url 2)/v2/admin/app/blobs/uploads/")"
same "what a tag is it knows" "$image" "$(digest_at 2 first)"
tells_of_its_storage() { grep -q "not mounted" <<<"$(status 1 | jq --arg id "$(id 2)" '.replica_health[$id]')"; }
ok "the others know of it" wait_for 40 tells_of_its_storage
ok "and take pushes" push 1 beside-the-unmounted
kill_machine 2
serve 2
ok "mounted, it is well" wait_for 30 is_well 2

cut_off 3
ok "one is cut off: pushes go on" push 1 without-three
alone() { on 3 curl -sk -o /dev/null -w '%{http_code}' -u "admin:$password" -X POST "$(url 3)/v2/admin/app/blobs/uploads/" | grep -q 503; }
ok "the one that is cut off accepts none" wait_for 10 alone
# shellcheck disable=SC2046
# It would not start beside the one that is there: its ports are taken.
small_side() { on 3 timeout 60 "$dtr" join --no-start --data-dir "$WORK/on-the-small-side" --replica-id "$(id 4)" --replica-host "$(address 3)" --etcd-client-port 3379 --etcd-peer-port 3380 --dtr-storage-volume "$shared" $(through 3); }
before=$(status 1 | jq -c '[.members[].replica] | sort')
refused "nor lets it anybody join, and says why" "majority|leader|store is not available" small_side
same "the large side knows nothing of it" "$before" "$(status 1 | jq -c '[.members[].replica] | sort')"
ok "and takes pushes" push 1 beside-the-attempt
same "which the small side does not show" "" "$(on 3 curl -sk --max-time 10 -u "admin:$password" -o /dev/null -D - -H 'accept: */*' -I "$(url 3)/v2/admin/app/manifests/beside-the-attempt" | tr -d '\r' | sed -n 's/^docker-content-digest: //p')"
fails "and the attempt leaves nothing" test -e "$WORK/on-the-small-side"
mend 3
ok "mended, it goes on" wait_for 30 is_well 3
same "with what it missed" "$image" "$(digest_at 3 without-three)"
same "also what came during the attempt" "$image" "$(digest_at 3 beside-the-attempt)"
same "all have the same members" 1 "$(for n in 1 2 3; do status "$n" | jq -c '[.members[].replica] | sort'; done | sort -u | wc -l)"
same "which are those from before" "$before" "$(status 3 | jq -c '[.members[].replica] | sort')"
for n in 1 2 3; do conforms "OCI's tests pass on replica $n then" "$(address "$n")" "mended-$n"; done

token=$(curl -sk -u "admin:$password" "$(url 1)/auth/token?service=registry&scope=repository:admin/app:pull" | jq -r .token)
pull() { curl -sk --max-time 10 -o "$WORK/pulled" -w '%{http_code}' -H "Authorization: Bearer $token" -H 'accept: */*' "$(url 1)/v2/admin/app/$1"; }
kill_machine 2
kill_machine 3
refuses() { [ "$(code --max-time 10 -X POST "$(url 1)/v2/admin/app/blobs/uploads/")" = 503 ]; }
ok "two of three die: writes are refused" wait_for 15 refuses
quick() { timeout 2 curl -sk -D - -o /dev/null -u "admin:$password" -X POST "$(url 1)/v2/admin/app/blobs/uploads/" | grep -qi '^retry-after'; }
ok "at once, with the time to try again" wait_for 10 quick
same "who has a token pulls on by digest: a manifest" "200 $image" "$(pull "manifests/$image") sha256:$(sha256sum <"$WORK/pulled" | cut -d' ' -f1)"
layer=$(jq -r '.layers[0].digest' "$WORK/pulled")
same "and content" "200 $layer" "$(pull "blobs/$layer") sha256:$(sha256sum <"$WORK/pulled" | cut -d' ' -f1)"
same "what a tag is now nobody knows" 503 "$(pull manifests/first)"
same "nor whether a password is still good" 503 "$(code "$(url 1)/v2/admin/app/manifests/$image")"
ok "the survivor can be backed up" timeout 60 "$dtr" backup --data-dir "$(folder 1)" --output "$WORK/known.tar" --report "$WORK/known.json"
same "the report says that nobody confirmed it" "false 1" "$(jq -r '"\(.confirmed) \([.warnings[] | select(contains("not confirmed"))] | length)"' "$WORK/known.json")"
ok "it is a good archive" "$dtr" backup verify "$WORK/known.tar"
tags=$(tar -xOf "$WORK/known.tar" --wildcards '*/metadata/tags.jsonl')
for tag in first without-two without-three; do same "with $tag" 1 "$(grep -c "\"$tag\"" <<<"$tags")"; done
ok "_ping says why" sh -c "curl -sk $(url 1)/_ping | grep -q leader"
same "and so does the status" true "$(status 1 | jq '.store.problem | contains("leader")')"
kill_machine 1
serve 1
ok "one that starts alone says what it waits for" wait_for 20 sh -c "curl -sk $(url 1)/_ping | grep -q 'waiting for a majority'"
ok "refuses at once all else" quick
same "and so does its status" true "$(status 1 | jq '.store.problem | contains("waiting for a majority")')"
pulls_known() { [ "$(pull "manifests/$image")" = 200 ]; }
ok "after a while it answers from what it knows: who has a token pulls by digest" wait_for 60 pulls_known
same "a manifest" "200 $image" "$(pull "manifests/$image") sha256:$(sha256sum <"$WORK/pulled" | cut -d' ' -f1)"
same "and content" "200 $layer" "$(pull "blobs/$layer") sha256:$(sha256sum <"$WORK/pulled" | cut -d' ' -f1)"
same "what a tag is now it does not know" 503 "$(pull manifests/first)"
ok "writes are refused, at once" quick
ok "it still says what it waits for" sh -c "curl -sk $(url 1)/_ping | grep -q 'waiting for a majority'"
ok "it can be backed up" timeout 60 "$dtr" backup --data-dir "$(folder 1)" --output "$WORK/waiting.tar" --report "$WORK/waiting.json"
same "which nobody confirmed" "false 1" "$(jq -r '"\(.confirmed) \([.warnings[] | select(contains("not confirmed"))] | length)"' "$WORK/waiting.json")"
ok "it is a good archive" "$dtr" backup verify "$WORK/waiting.tar"
same "with the same in it" "$tags" "$(tar -xOf "$WORK/waiting.tar" --wildcards '*/metadata/tags.jsonl')"
ends() { kill "$(cat "$(folder 1)/dtr.pid")" && wait_for 10 gone 1; }
ok "it ends when told to" ends
ok "stopped, it can be backed up" on 1 timeout 120 "$dtr" backup --data-dir "$(folder 1)" --output "$WORK/stopped.tar" --report "$WORK/stopped.json"
same "nobody confirmed that either" "false 1" "$(jq -r '"\(.confirmed) \([.warnings[] | select(contains("not confirmed"))] | length)"' "$WORK/stopped.json")"
ok "it is a good archive too" "$dtr" backup verify "$WORK/stopped.tar"
same "with the same in it" "$tags" "$(tar -xOf "$WORK/stopped.tar" --wildcards '*/metadata/tags.jsonl')"
fails "and no copy is left" test -e "$(folder 1)/etcd/known"
serve 1
serve 3
ok "with the majority all goes on by itself" wait_for 30 push 1 again
serve 2
ok "and the other comes too" wait_for 30 is_well 2

repair() { on "$1" "$dtr" emergency-repair --data-dir "$(folder "$1")" --yes; }
refused "there is nothing to repair then" "nothing is to be repaired" repair 1
ok "and the replica serves on" is_well 1
# That a replica is not well says nothing of the others.
processes() { for n in "$@"; do ip netns pids "$HOSTS_NAME-$n"; done; }
before=$(processes 2 3)
ok "one of three is stopped" ends
refused "it is not made a cluster of its own beside the others" "majority of the replicas answers.*start it" repair 1
fails "and nothing is left of the attempt" sh -c "ls -d $(folder 1)/etcd/copy || ls -d $(folder 1)/etcd/apart"
same "which the others did not notice" "$before" "$(processes 2 3)"
ok "they go on" push 2 beside-the-repair
kill_machine 3
refused "nor beside one with which it is the majority" "2 of 3 are a majority" repair 1
serve 1
ok "with that one it goes on by itself" wait_for 30 push 1 without-a-repair
serve 3
ok "as does the third" wait_for 30 is_well 3
cp -r "$(folder 3)/etcd" "$WORK/removed"
ok "the third is known to etcd" from_etcd 1 "$WORK/removed" 3
ok "one is removed" "$dtr" remove $(through 1) --replica-ids "$(id 3)"
ok "and stops by itself" wait_for 30 gone 3
shut_out() { ! from_etcd "$1" "$WORK/removed" 3 && ! from_peer "$1" "$WORK/removed" 3; }
for n in 1 2; do
    ok "with its certificate nothing is had from etcd $n" wait_for 20 shut_out "$n"
    fails "nor from the replica" from_replica "$n" "$WORK/removed"
    ok "with that of another still" from_etcd "$n" "$(folder 1)/etcd" 1
done
serve 3
sleep_less() { grep -q "waiting for a majority\|was removed" "$(folder 3)/dtr.log"; }
ok "it does not come back" wait_for 30 sleep_less
fails "and serves nobody" is_well 3
same "two are left" 2 "$(status 1 | jq '[.members[]] | length')"

# Joins at the same time, as where all machines are set up at once: each is tried again until it is there, then started.
kill_machine 3
ok "what was removed is destroyed" "$dtr" destroy --data-dir "$(folder 3)" --keep-storage --yes
# shellcheck disable=SC2046
prepare() { on "$1" "$dtr" join --no-start --unless-installed $(place "$1") $(through 1); }
set_up() {
    until prepare "$1" >"$WORK/prepared-$1" 2>&1; do
        grep -q "one joins at a time\|majority would be at risk" "$WORK/prepared-$1" || return 1
    done
    serve "$1"
}
voters() { status 1 | jq '[.members[] | select(.votes)] | length'; }
vote() { [ "$(voters)" = "$1" ]; }
set_up 3 &
third=$!
set_up 4 &
fourth=$!
ok "of two that join at once one is let in" wait "$third"
ok "and then the other" wait "$fourth"
ok "both are members in the end" wait_for 60 vote 4
for n in 3 4; do ok "replica $n is well" wait_for 30 is_well "$n"; done
# One that was let in is waited for.
ok "one is let in that starts later" wait_for 20 prepare 5
kill_machine 4
ok "another is to restart, and is lost" restart -o /dev/null -H 'content-type: application/json' -d "{\"replicas\":[\"$(id 4)\"],\"drainSeconds\":0}"
ok "it is removed" wait_for 20 "$dtr" remove $(through 1) --replica-ids "$(id 4)"
same "and nobody waits for its restart" '[]' "$(restart | jq -c .replicas)"
rm -r "$(folder 4)"
refused "its successor is told who is expected" "dtr-$(id 5) is just joining.*let in at" prepare 4
membership() { ask_etcd 1 "$(folder 1)/etcd" "https://$(address 1):2379/v3/cluster/member/$1" -d "${2:-{\}}"; }
# A learner that etcd knows by its address alone.
unstarted() { membership list | jq -r --arg url "https://$1:2380" '.members[] | select(.peerURLs[0] == $url) | .ID'; }
removed() { membership remove "{\"ID\":\"$(unstarted "$1")\"}"; }
taken() { removed "$(address 5)" && membership add '{"peerURLs":["https://10.77.0.99:2380"],"isLearner":true}'; }
ok "its place is taken by another" taken
serve 5
outside() { curl -sk "$(url 5)/_ping" | grep -q 'not among the members'; }
ok "it says that it is no member" wait_for 30 outside
fails "and is not well" is_well 5
health() { [[ "$(status 1 | jq -r --arg id "$(id 5)" '.replica_health[$id]')" == *'not among the members'* ]]; }
ok "which the others see" wait_for 30 health
ok "when the place is free" removed 10.77.0.99
ok "it comes in by itself" wait_for 60 vote 4
ok "and is well" wait_for 30 is_well 5
ok "then the successor may come" wait_for 30 prepare 4
# One that is let in and not wanted any more is removed before it ever starts.
ok "or is taken back" "$dtr" remove $(through 1) --replica-ids "$(id 4)"
same "and leaves nothing" 4 "$(membership list | jq '.members | length')"
finish
