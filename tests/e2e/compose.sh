#!/usr/bin/env bash
# docs/compose.md, carried out as it stands there: the commands are taken out of the page, with a real engine and a real
# Compose. From nothing to three replicas behind haproxy; replicas killed, restarted, renewed, their volumes lost and
# replaced; a backup; everything down and up again. What was acknowledged is there after each of these.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network 192.0.2.1
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" docker-compose-2 haproxy etcd skopeo jq curl openssl
page=$ROOT/docs/compose.md
host=registry.example.com
url=https://$host
export ENGINES_ADDRESS=192.0.2.1 ENGINES_BRIDGE=1 ENGINE_TIMEOUT=180
engines_start "$host"
mkdir "$ENGINES/docker-config/cli-plugins" "$WORK/programs"
ln -s "$(command -v docker-compose-2)" "$ENGINES/docker-config/cli-plugins/docker-compose"
ln -s "$(realpath "$dtr")" "$WORK/programs/dtr"
[ ! -x /usr/bin/docker ] || ln -s /usr/bin/docker "$WORK/programs/docker"
export PATH=$WORK/programs:$PATH
# The folders that the page works in; it writes into one of them.
tree=$WORK/tree
here=$tree/deploy/compose
mkdir -p "$tree/deploy"
cp -r "$ROOT/docker" "$ROOT/Dockerfile" "$ROOT/Cargo.toml" "$tree/"
cp -r "$ROOT/deploy/compose" "$tree/deploy/"
remove_containers() { d ps -aq | xargs -r docker -H "unix://$ENGINES/docker.sock" rm -f; }
on_exit remove_containers

# The balancer's image, which is pulled where that is possible: haproxy as it is installed here.
image_context "$WORK/balancer" "$(command -v haproxy)"
sed -i '/^ENTRYPOINT/d' "$WORK/balancer/Dockerfile"
mkdir "$WORK/balancer/part-haproxy/etc"
echo "root:x:0:0::/:" >"$WORK/balancer/part-haproxy/etc/passwd"
ok "an image of the balancer" image_build balancer:local "$WORK/balancer" || bail "nothing in front"

# typed FOLDER COMMANDS [THIS=INSTEAD...]: runs commands of the page there.
typed() {
    local folder=$1 text=$2 pair
    shift 2
    [ -n "$text" ] || return 1
    for pair in "$@"; do
        [[ $text = *"${pair%%=*}"* ]] || return 1
        text=${text//"${pair%%=*}"/"${pair#*=}"}
    done
    cd "$folder" && in_engines bash -eux -o pipefail -c "$text"
}
# row NAME N: the Nth command in the row of the page's table.
row() { grep "^| $1 |" "$page" | cut -d'`' -f"$((2 * $2))"; }
compose() { (cd "$here" && in_engines docker compose "$@"); }
answers() { curl -sSf -k --max-time 5 --resolve "$host:443:192.0.2.1" "$url/_ping"; }
# Each replica by its own address, past the balancer.
replica() { d inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "dtr-$1-1"; }
digest_at() {
    curl -sk -u "admin:$password" -o /dev/null -D - -H 'accept: */*' -I "https://$(replica "$1")/v2/admin/app/manifests/$2" |
        tr -d '\r' | sed -n 's/^docker-content-digest: //p'
}
healthy() { compose ps "$1" | grep -q '(healthy)'; }
voters() { compose exec -T "$1" dtr status -o json | jq '[.members[] | select(.votes)] | length'; }
container() { d inspect -f "$2" "dtr-$1-1"; }
push() { d tag web:1 "$host/admin/app:$1" && d push "$host/admin/app:$1"; }
# As the page says, a push may have to be repeated where a replica died under it.
pushes() {
    local try
    for try in 1 2 3; do
        if push "$1"; then
            [ "$try" = 1 ] || note "the push of $1 succeeded at attempt $try"
            return 0
        fi
    done
    return 1
}
tags=()
# acknowledged TAG: was pushed, and must be there from now on.
acknowledged() { tags+=("$1"); }
all_there() {
    local tag
    for tag in "${tags[@]}"; do [ "$(digest_at "$1" "$tag")" = "$image" ] || return 1; done
}

first=$(runbook "$page" first)
began=$SECONDS
ok "the first start" typed "$tree" "$first" "docker/build-image=docker/build-image --bin-dir $(dirname "$dtr")" \
    "> .env=> .env; echo BALANCER_IMAGE=balancer:local >> .env" || { compose ps; compose logs --tail 5; finish; }
note "images and three replicas in $((SECONDS - began)) s"
password=$(cat "$here/secrets/admin-password")
same "three replicas that vote" 3 "$(voters r1)"
ok "they answer through the balancer" wait_for 20 answers
same "port 80 sends clients to HTTPS" "301 $url/v2/" "$(curl -s -o /dev/null -w '%{http_code} %{redirect_url}' --resolve "$host:80:192.0.2.1" "http://$host/v2/")"
ok "first use" typed "$here" "$(runbook "$page" use)" || finish
# shellcheck disable=SC2046
d inspect $(d ps -aq) >"$WORK/containers"
ok "the containers are known" grep -q DTR_DATA_DIR "$WORK/containers"
fails "none has the password in its environment or its command" grep -q "$password" "$WORK/containers"

engines_trust "$host" "$here/ca.pem"
login() { in_engines docker login -u admin --password-stdin "$host" <"$here/secrets/admin-password"; }
ok "docker logs in" login
image_context "$WORK/context"
ok "an image" image_build web:1 "$WORK/context" || bail "nothing to push"
ok "docker pushes through the balancer" push first || finish
acknowledged first
image=$(digest_at r1 first)
for replica in r1 r2 r3; do ok "$replica has it" all_there "$replica"; done
ok "skopeo copies it through the balancer" s copy "docker://$host/admin/app:first" "docker://$host/admin/app:copied"
acknowledged copied
pull() { d rmi "$host/admin/app:$1" web:1; d pull "$host/admin/app:$1" && d tag "$host/admin/app:$1" web:1; }
ok "docker pulls it" pull first

ok "r2 is killed" d kill dtr-r2-1
ok "pushes go on" pushes killed && acknowledged killed
ok "it comes back with $(row "a container dies" 2)" typed "$here" "$(row "a container dies" 2)"
ok "and is healthy" wait_for 60 healthy r2
ok "with what was pushed meanwhile" wait_for 20 all_there r2

kill -KILL "$(container r3 '{{.State.Pid}}')"
ok "a replica dies by itself: pushes go on" pushes died && acknowledged died
started_again() { [ "$(container r3 '{{.RestartCount}}')" -gt 0 ] && [ "$(container r3 '{{.State.Health.Status}}')" = healthy ]; }
ok "the engine starts it again" wait_for 60 started_again
ok "restart of r2" typed "$here" "$(row "restart one" 1)"
ok "it is healthy again" wait_for 60 healthy r2

newer_image() { printf 'FROM docker/dtr:latest\nLABEL newer=yes\n' | in_engines docker build -q -t docker/dtr:latest -; }
ok "a newer image" newer_image
for replica in r1 r2 r3; do
    ok "$replica gets it" typed "$here" "$(row "a newer image" 1)" "r1=$replica"
    same "and runs it" yes "$(container "$replica" '{{index .Config.Labels "newer"}}')"
done
ok "pushes go on" pushes renewed && acknowledged renewed

ok "a backup" typed "$here" "$(row "a backup" 1)"
ok "it verifies" typed "$here" "$(row "a backup" 2)"

ok "the volume of r2 is lost and replaced" typed "$here" "$(runbook "$page" lost)" || { compose logs --tail 5; finish; }
same "three that vote" 3 "$(voters r1)"
ok "r2 has everything" wait_for 20 all_there r2
export DTR_EXISTING=000000000002
ok "the volume of r1 is lost and replaced, through r2" typed "$here" "$(runbook "$page" lost)" \
    000000000002=000000000001 r2=r1 join2=join1 || { compose logs --tail 5; finish; }
unset DTR_EXISTING
same "three that vote" 3 "$(voters r2)"
ok "r1 has everything" wait_for 20 all_there r1
ok "pushes go on" pushes replaced && acknowledged replaced

ok "everything is stopped" compose stop
same "and has ended by itself" "Exited (0)" "$(d ps -a --format '{{.Status}}' | cut -d' ' -f1,2 | sort -u)"
ok "and removed, but for the volumes" compose down
ok "and up again" typed "$here" "$(grep '^From then on ' "$page" | cut -d'`' -f2)"
ok "it answers" wait_for 60 answers
for replica in r1 r2 r3; do ok "$replica has everything" wait_for 60 all_there "$replica"; done
ok "docker pulls what was pushed last" pull replaced
ok "and pushes" pushes again
ok "each step of the first start finds its work done" typed "$here" "$(grep '^docker compose' <<<"$first")"
same "three that vote" 3 "$(voters r3)"
finish
