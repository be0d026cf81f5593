#!/usr/bin/env bash
# Registries' clients as people use them: logged in once with "docker login", then docker, podman, skopeo, buildah and
# containerd, and crane, oras and regctl, which read docker's login. That a copy between repositories succeeds
# says little; what is asserted is that its layers were mounted and not sent again.
# timeout: 600
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Outside 127/8, since docker treats a registry on the loopback as one without TLS.
own_network 192.0.2.1
export ENGINES_ADDRESS=192.0.2.1
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" skopeo podman buildah ctr crane oras regctl jq curl tar
port=$(free_port)
host=registry.test:$port
url=https://$host
password="a-password-$RANDOM"
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --admin-password "$password" --replica-https-port "$port" \
    --replica-http-port 0 >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
for name in app podman skopeo buildah containerd crane oras oras-copy regctl docker; do
    "$dtr" repo create "admin/$name" --data-dir "$data" >/dev/null || bail "admin/$name cannot be made"
done
curl -sSfk "https://127.0.0.1:$port/ca" -o "$WORK/ca.pem" || bail "/ca does not answer"
engines_start registry.test
engines_trust "$host" "$WORK/ca.pem"

# Programs in Go that know nothing of certs.d; a home of their own, so that no setting of this machine helps.
mkdir -p "$WORK/home"
go_client() { in_engines env SSL_CERT_FILE="$WORK/ca.pem" HOME="$WORK/home" XDG_CONFIG_HOME="$WORK/home" "$@"; }
b() { in_engines buildah --root "$ENGINES/podman/root" --runroot "$ENGINES/podman/run" --storage-driver=vfs "$@"; }
# The registry's log: METHOD REPOSITORY-AND-REST STATUS.
asked() { sed 's/\x1b\[[0-9;]*m//g' "$data/dtr.log" | grep -c "method=\"$1\" path=\"/v2/$2\" status=$3 "; }
# mounted NAME REPOSITORY LEAST SENT: at least so many blobs came by mount, and at most SENT by an upload of their bytes.
mounted() {
    local sent
    sent=$(sed 's/\x1b\[[0-9;]*m//g' "$data/dtr.log" | grep -cE "method=\"PUT\" path=\"/v2/$2/blobs/uploads/[^\"]*\" status=201 ")
    note "$2: $(asked POST "$2/blobs/uploads/" 201) mounted, $sent sent"
    if [ "$(asked POST "$2/blobs/uploads/" 201)" -ge "$3" ] && [ "$sent" -le "$4" ]; then pass "$1"; else fail "$1"; fi
}
digest_of() { s inspect --raw "docker://$host/$1" | sha256sum | cut -d' ' -f1; }

# One login for all.
login() { echo "$password" | d login -u admin --password-stdin "$host"; }
ok "docker logs in" login || bail "nothing works without a login"
image_context "$WORK/context"
ok "docker builds" image_build "$host/admin/app:1" "$WORK/context"
ok "docker pushes" d push "$host/admin/app:1"
layers=$(s inspect --raw "docker://$host/admin/app:1" | jq '.layers | length')
pushed=$(digest_of admin/app:1)

found() { d search "$host/app" | tee "$WORK/search.log" && grep -q "admin/app" "$WORK/search.log"; }
ok "docker search finds a repository" found

# Copies between repositories with docker's login: what is there is mounted.
d tag "$host/admin/app:1" "$host/admin/docker:1"
ok "docker pushes the image under another name" d push "$host/admin/docker:1"
# Docker and podman send an image's configuration each time.
mounted "docker mounted every layer" admin/docker "$layers" 1
# It mounts from where it has once seen a blob.
ok "skopeo pulls with docker's login" s copy "docker://$host/admin/app:1" "dir:$WORK/skopeo-pulled"
ok "skopeo copies with docker's login" s copy "docker://$host/admin/app:1" "docker://$host/admin/skopeo:1"
mounted "skopeo mounted every layer" admin/skopeo "$layers" 1
same "the copy has the digest of the original" "$pushed" "$(digest_of admin/skopeo:1)"
engines_forget
ok "podman pulls with docker's login" p pull "$host/admin/app:1"
# It writes a config of its own, which it sends.
ok "podman pushes to another repository" p push "$host/admin/app:1" "docker://$host/admin/podman:1"
mounted "podman mounted the layers that it had pulled" admin/podman "$layers" 1
ok "buildah pushes what podman pulled" b push "$host/admin/app:1" "docker://$host/admin/buildah:1"
mounted "buildah mounted the layers" admin/buildah "$layers" 1

# containerd: the one that dockerd started; it reads no login of docker's.
c() {
    in_engines ctr --address "$ENGINES/exec/containerd/containerd.sock" --namespace people "$@"
}
ok "containerd pulls" c images pull --hosts-dir "$ENGINES/etc-docker/certs.d" --user "admin:$password" "$host/admin/app:1"
c images tag "$host/admin/app:1" "$host/admin/containerd:1" >/dev/null
ok "containerd pushes" c images push --hosts-dir "$ENGINES/etc-docker/certs.d" --user "admin:$password" "$host/admin/containerd:1"
same "with the same digest" "$pushed" "$(digest_of admin/containerd:1)"

# crane.
ok "crane copies" go_client crane copy "$host/admin/app:1" "$host/admin/crane:1"
mounted "crane mounted every layer" admin/crane "$layers" 0
crane_lists() { go_client crane ls "$host/admin/crane" | grep -qx 1 && go_client crane catalog "$host" | grep -qx admin/crane; }
ok "crane lists tags and repositories" crane_lists
ok "crane validates what is there" go_client crane validate --remote "$host/admin/crane:1"
crane_indexes() {
    go_client crane index append -m "$host/admin/crane:1" -t "$host/admin/crane:index" --flatten=false
}
ok "crane makes an index" crane_indexes
refused "crane deletes no image that an index lists" "index" go_client crane delete "$host/admin/crane@sha256:$pushed"
ok "the index is whole after that" go_client crane validate --remote "$host/admin/crane:index"

# oras.
head -c 3000000 /dev/urandom >"$WORK/file"
oras_in() { (cd "$WORK" && go_client oras "$@"); }
ok "oras pushes a file" oras_in push "$host/admin/oras:1" --artifact-type application/vnd.example "file:application/octet-stream"
mkdir "$WORK/back"
ok "oras pulls it" oras_in pull "$host/admin/oras:1" -o "$WORK/back"
same "the file is the same" "$(sha256sum <"$WORK/file")" "$(sha256sum <"$WORK/back/file")"
echo '{"a":"bill of materials"}' >"$WORK/sbom.json"
ok "oras attaches a file to it" oras_in attach "$host/admin/oras:1" --artifact-type application/vnd.example.sbom "sbom.json:application/json"
oras_finds() { oras_in discover "$1" --format json | jq -e '[.. | .artifactType? // empty] | index("application/vnd.example.sbom") != null'; }
ok "oras finds what is attached" oras_finds "$host/admin/oras:1"
ok "oras copies it with all referrers" oras_in cp -r "$host/admin/oras:1" "$host/admin/oras-copy:1"
ok "oras finds what is attached at the copy" oras_finds "$host/admin/oras-copy:1"

# regctl.
ok "regctl copies an image" go_client regctl image copy "$host/admin/app:1" "$host/admin/regctl:1"
same "with the same digest" "$pushed" "$(digest_of admin/regctl:1)"
regctl_lists() { go_client regctl tag ls "$host/admin/regctl" | grep -qx 1; }
ok "regctl lists tags" regctl_lists
ok "regctl copies with referrers" go_client regctl image copy --referrers "$host/admin/oras:1" "$host/admin/regctl:oras"
ok "oras finds what regctl copied" oras_finds "$host/admin/regctl:oras"
# Last: docker keeps what it tried as a place to mount from.
# The commonest mistake of newcomers.
one_part() {
    local began=$SECONDS
    d pull -q "$host/admin/app:1" && d tag "$host/admin/app:1" "$host/web:1.0" && ! d push "$host/web:1.0" >"$WORK/one-part.log" 2>&1 && cat "$WORK/one-part.log" &&
        grep -qi "namespace" "$WORK/one-part.log" && [ $((SECONDS - began)) -lt 15 ]
}
ok "docker says at once that a name of one part has no namespace" one_part
finish
