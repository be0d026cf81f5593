#!/usr/bin/env bash
# The runbooks of docs/replicas.md, each carried out as it stands there: the commands are taken out of the page, with only
# addresses, folders and ids exchanged, and questions are answered on a terminal. One machine of three lost and replaced,
# two lost and repaired, all lost and restored, from one machine to three; OCI's own tests after each, on each replica.
# timeout: 400
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network
. "$ROOT/tests/lib/images.sh"
. "$ROOT/tests/lib/hosts.sh"
. "$ROOT/tests/lib/conformance.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" etcd skopeo jq curl script conformance
mkdir "$WORK/programs" && ln -s "$(realpath "$dtr")" "$WORK/programs/dtr"
export PATH=$WORK/programs:$PATH
hosts 4
password=a-password-of-many
export UCP_PASSWORD=$password DTR_ADMIN_PASSWORD=$password
page=$ROOT/docs/replicas.md
url() { echo "https://$(address "$1")"; }
folder() { echo "$WORK/$1/dtr"; }
api() { curl -sk -u "admin:$password" "$@"; }
status() { dtr status --data-dir "$(folder "$1")" -o json; }
id() { status "$1" | jq -r --arg at "//$(address "$1"):" '([.members[]? | select(.peer_urls[0] | contains($at)).replica] + (.replica_health | keys))[0]'; }
voters() { status "$1" | jq '[.members[] | select(.votes)] | length'; }
is_well() { [ "$(curl -sk -o /dev/null -w '%{http_code}' "$(url "$1")/_ping")" = 200 ]; }
kill_machine() { ip netns pids "$HOSTS_NAME-$1" | xargs -r kill -KILL; }
digest_at() { api -o /dev/null -D - -H 'accept: */*' -I "$(url "$1")/v2/admin/app/manifests/$2" | tr -d '\r' | sed -n 's/^docker-content-digest: //p'; }
push() { skopeo copy --quiet --dest-tls-verify=false --dest-creds "admin:$password" "oci:$WORK/layout:1" "docker://$(address "$1")/admin/app:$2"; }
stop_machines() { for n in 1 2 3 4; do kill_machine "$n"; done; }
on_exit stop_machines

# typed MACHINE RUNBOOK [THIS=INSTEAD...]: the page's commands on that machine, in the folder that has ca.pem and the backups, each
# question answered with yes.
typed() {
    local machine=$1 text pair
    text=$(runbook "$page" "$2")
    shift 2
    [ -n "$text" ] || return 1
    for pair in "$@"; do text=${text//"${pair%%=*}"/"${pair#*=}"}; done
    text=${text//10.0.0./10.77.0.}
    text=${text//\/mnt\/registry/"$shared"}
    mkdir -p "$WORK/$machine"
    # Each machine has a /var/lib of its own.
    printf '%s\n' 'set -e -o pipefail' "mount --bind $WORK/$machine /var/lib" "cd $WORK/admin" "$text" >"$WORK/$machine/typed"
    sed 's/^/> /' "$WORK/$machine/typed"
    on "$machine" script -qefc "bash $WORK/$machine/typed" "$WORK/shown" \
        < <(while sleep 0.5; do echo yes; done 2>/dev/null)
}
# A machine joins through another.
joins() { typed "$1" join "10.0.0.1=$(address "$2")" "10.0.0.2=$(address "$1")" "ID=$(id "$2")"; }
# conform WHEN MACHINE...: the protocol's own tests on each of them.
conform() {
    local when=$1 machine
    shift
    for machine in "$@"; do conforms "OCI's tests, $when, on machine $machine" "$(address "$machine")" "${when// /-}-$machine"; done
}
# Fresh machines, a fresh shared folder.
fresh() {
    stop_machines
    rm -rf "$WORK/admin" "$WORK"/[1-4]
    shared=$WORK/$1
    mkdir -p "$WORK/admin" "$shared"
}
repository() { api -f -o /dev/null "$(url "$1")/api/v0/repositories/admin" -H 'content-type: application/json' -d '{"name":"app"}'; }
image_oci "$WORK/layout" 1
image=$(jq -r '.manifests[0].digest' "$WORK/layout/index.json")

fresh shared
ok "three machines: the first" typed 1 first || bail "nothing works without it"
ok "the second" joins 2 1 || finish
ok "the third" joins 3 1
same "all of them vote" 3 "$(voters 3)"
ok "a repository" repository 1
ok "and an image" push 2 before
ok "a backup" typed 1 backup "ID=$(id 1)" || finish

lost=$(id 2)
kill_machine 2
ok "one machine is lost: removed" typed 1 remove "ID=$(id 1)" "LOST=$lost"
same "two are left" 2 "$(voters 1)"
ok "its successor joins" joins 4 1
same "three again" 3 "$(voters 4)"
same "with what there was" "$image" "$(digest_at 4 before)"
ok "and takes pushes" push 4 replaced
conform "one replaced" 1 3 4

kill_machine 3
kill_machine 4
ok "the majority is lost: the survivor is repaired" typed 1 repair
ok "it says up to where it has everything" grep -Eq 'everything up to revision [0-9]+' "$WORK/shown"
same "it is alone" 1 "$(voters 1)"
ok "and takes pushes" push 1 repaired
for tag in before replaced; do same "$tag is there" "$image" "$(digest_at 1 "$tag")"; done
on 4 setsid dtr serve --detached --data-dir "$(folder 4)" >>"$WORK/4/log" 2>&1 &
ok "one of the others comes up again, and waits" wait_for 30 sh -c "curl -sk $(url 4)/_ping | grep -q 'waiting for a majority'"
same "it serves nothing" 503 "$(api -o /dev/null -w '%{http_code}' "$(url 4)/v2/")"
same "the survivor is still alone" 1 "$(voters 1)"
# With another of them it is the majority of what they were. The storage is the survivor's.
on 3 setsid dtr serve --detached --data-dir "$(folder 3)" >>"$WORK/3/log" 2>&1 &
for n in 3 4; do
    ok "two of the others come up: $n knows that the storage is another's" wait_for 60 sh -c "curl -sk $(url "$n")/_ping | grep -q 'has taken it over'"
    same "it takes no push" 503 "$(api -o /dev/null -w '%{http_code}' -X POST "$(url "$n")/v2/admin/app/blobs/uploads/")"
    same "nor any other change" 503 "$(api -o /dev/null -w '%{http_code}' "$(url "$n")/api/v0/repositories/admin" -H 'content-type: application/json' -d '{"name":"late"}')"
    refused "and collects nothing" "has taken it over" dtr gc --run --data-dir "$(folder "$n")"
    ok "its log says so" grep -q 'has taken it over' "$WORK/$n/log"
done
ok "the survivor is well" is_well 1
for n in 3 4; do
    ok "what machine $n has is destroyed" typed "$n" destroy
    ok "it joins" joins "$n" 1
done
same "three again" 3 "$(voters 3)"
same "what was pushed in between is on them" "$image" "$(digest_at 4 repaired)"
conform "two repaired" 1 3 4

stop_machines
rm -rf "$WORK"/[1-4]
ok "everything is lost: restored" typed 1 restore || finish
ok "the others join: one" joins 2 1
ok "and another" joins 3 2
same "three vote" 3 "$(voters 2)"
same "with what the backup has" "$image" "$(digest_at 3 before)"
same "and not what came later" "" "$(digest_at 1 repaired)"
ok "they take pushes" push 3 restored
conform "all restored" 1 2 3

fresh moved
ok "one machine with a store of its own" on 1 dtr install --data-dir "$(folder 1)" || bail "nothing to move"
# A replica reports itself within seconds of its start.
reported() { [ "$(id 1)" != null ]; }
wait_for 20 reported
refused "which no other can join" "for one replica" on 2 dtr join --data-dir "$(folder 2)" --ucp-url "$(url 1)" \
    --ucp-insecure-tls --ucp-username admin --existing-replica-id "$(id 1)"
ok "a repository on it" repository 1
ok "an image on it" push 1 before
ok "it is moved to etcd" typed 1 move || finish
ok "its authority" sh -c "curl -sk $(url 1)/ca >$WORK/admin/ca.pem"
ok "a second joins" joins 2 1
ok "a third joins" joins 3 1
same "three that vote" 3 "$(voters 3)"
pulled() { skopeo copy --quiet --src-tls-verify=false --src-creds "admin:$password" "docker://$(address 3)/admin/app:before" "oci:$WORK/pulled:1"; }
ok "the image is pulled from the third" pulled
ok "and pushes go on" push 2 after

ok "a backup of it" typed 1 backup "ID=$(id 1)"
ok "is good" dtr backup verify "$WORK/admin/backup.tar"
stop_machines
back() { on 4 dtr restore --data-dir "$(folder 4)" --dtr-storage-volume "$shared" <"$WORK/admin/backup.tar"; }
ok "back on one machine with a store of its own" back
same "with everything" "$image" "$(digest_at 4 after)"
finish
