#!/usr/bin/env bash
# docker, podman, skopeo and curl against an installed replica: push, pull and delete in both formats, lists of several
# platforms, shared layers, 100 layers, 1,000 tags, private and public repositories, access tokens.
# timeout: 600
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Outside 127/8, since docker treats a registry on the loopback as one without TLS.
own_network 192.0.2.1
export ENGINES_ADDRESS=192.0.2.1
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" skopeo podman jq curl tar
port=$(free_port)
host=registry.test:$port
url=https://$host
at_host="--resolve $host:192.0.2.1 --cacert $WORK/ca.pem"
password="a-password-$RANDOM"
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --admin-password "$password" --replica-https-port "$port" \
    --replica-http-port 0 >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
for name in app copy podman lists layers tags; do
    "$dtr" repo create "admin/$name" --data-dir "$data" >/dev/null || bail "admin/$name cannot be made"
done
"$dtr" repo create admin/open --public --data-dir "$data" >/dev/null || bail "admin/open cannot be made"
"$dtr" user create eve --password "eves-password" --data-dir "$data" >/dev/null || bail "eve cannot be made"
curl -sSfk "https://127.0.0.1:$port/ca" -o "$WORK/ca.pem" || bail "/ca does not answer"

engines_start registry.test
engines_trust "$host" "$WORK/ca.pem"
image_context "$WORK/context"
# Without and with credentials of its own, so that no login of another step helps.
nobody() { in_engines env DOCKER_CONFIG="$WORK/nobody" REGISTRY_AUTH_FILE="$WORK/nobody/config.json" "$@"; }
mkdir -p "$WORK/nobody" && echo '{}' >"$WORK/nobody/config.json"
digest_of() { s inspect --raw "docker://$host/$1" | sha256sum | cut -d' ' -f1; }
# api METHOD PATH [CURL ARGUMENTS...]: as the administrator; prints the status.
api() {
    local method=$1 path=$2
    shift 2
    # shellcheck disable=SC2086
    curl -sS $at_host -u "admin:$password" -o "$WORK/answer" -w '%{http_code}' -X "$method" "$url$path" "$@"
}

# Logins.
login() {
    local client=$1 user=$2 secret=$3
    shift 3
    echo "$secret" | "$client" login "$@" -u "$user" --password-stdin "$host"
}
refused "docker with a wrong password" "unauthorized|incorrect|wrong" login d admin nonsense
# Before docker: these two pull with the refresh token that docker keeps, but do not log in where there is one.
ok "podman logs in" login p admin "$password" --authfile "$WORK/podman-login.json"
ok "skopeo logs in" login s admin "$password" --authfile "$WORK/skopeo-login.json"
ok "docker logs in" login d admin "$password" || bail "nothing works without a login"

# docker: Docker schema 2.
ok "docker builds" image_build "$host/admin/app:1" "$WORK/context"
ok "docker pushes" d push "$host/admin/app:1"
pushed=$(digest_of admin/app:1)
same "it is stored in Docker's format" application/vnd.docker.distribution.manifest.v2+json "$(s inspect --raw "docker://$host/admin/app:1" | jq -r .mediaType)"
engines_forget
ok "docker pulls by tag" d pull "$host/admin/app:1"
ok "a container starts" d run --rm --network=none "$host/admin/app:1" /bin
engines_forget
ok "docker pulls by digest" d pull "$host/admin/app@sha256:$pushed"
d tag "$host/admin/app@sha256:$pushed" "$host/admin/copy:1"
shared() { d push "$host/admin/copy:1" | tee "$WORK/shared.log" && ! grep "Pushed" "$WORK/shared.log"; }
ok "docker mounts shared layers and sends none again" shared
same "with the same digest" "$pushed" "$(digest_of admin/copy:1)"

# podman, in OCI format.
ok "podman pulls" p pull "$host/admin/app:1"
ok "podman pushes in OCI format" p push --format oci "$host/admin/app:1" "docker://$host/admin/podman:oci"
same "it is stored in OCI format" application/vnd.oci.image.config.v1+json "$(s inspect --raw "docker://$host/admin/podman:oci" | jq -r .config.mediaType)"
ok "docker pulls what podman pushed" d pull "$host/admin/podman:oci"
tags_of() { p search --list-tags "$host/admin/podman" | tee "$WORK/search.log" && grep -w oci "$WORK/search.log"; }
ok "podman lists the tags" tags_of

# skopeo: by hand, both formats, between repositories, deletion.
image_oci "$WORK/layout" hand
ok "skopeo pushes a layout" s copy "oci:$WORK/layout:hand" "docker://$host/admin/app:hand"
same "the digest is that of the layout" "$(jq -r '.manifests[0].digest' "$WORK/layout/index.json")" "sha256:$(digest_of admin/app:hand)"
ok "docker pulls it" d pull "$host/admin/app:hand"
ok "skopeo pushes it in Docker's format" s copy --format v2s2 "oci:$WORK/layout:hand" "docker://$host/admin/app:v2s2"
ok "skopeo copies between repositories" s copy "docker://$host/admin/app:hand" "docker://$host/admin/copy:hand"
same "with the same digest" "$(digest_of admin/app:hand)" "$(digest_of admin/copy:hand)"
ok "skopeo deletes" s delete "docker://$host/admin/copy:hand"
refused "what was deleted is gone" "manifest unknown|not found" s inspect "docker://$host/admin/copy:hand"
ok "in the other repository it stays" s inspect "docker://$host/admin/app:hand"

# What the registry was asked, as its log tells it: METHOD REPOSITORY-AND-REST STATUS.
asked() { sed 's/\x1b\[[0-9;]*m//g' "$data/dtr.log" | grep -c "method=\"$1\" path=\"/v2/$2\" status=$3 "; }
ok "the registry mounted layers instead of receiving them again" test "$(asked POST admin/copy/blobs/uploads/ 201)" -gt 0

# Several platforms.
docker_list() {
    # Only of what docker itself wrote: it pushes entries again in its own spelling, under whatever digest that has.
    d manifest create "$host/admin/lists:docker" "$host/admin/app:1" &&
        d manifest annotate --arch arm64 "$host/admin/lists:docker" "$host/admin/app:1" &&
        d manifest push "$host/admin/lists:docker"
}
ok "docker makes and pushes a list" docker_list
same "it is stored as one" application/vnd.docker.distribution.manifest.list.v2+json "$(s inspect --raw "docker://$host/admin/lists:docker" | jq -r .mediaType)"
ok "docker shows it" d manifest inspect "$host/admin/lists:docker"
podman_list() {
    p manifest create several && p manifest add --arch arm64 several "docker://$host/admin/app:1" &&
        p manifest add several "docker://$host/admin/app:hand" && p manifest push --all several "docker://$host/admin/lists:podman"
}
ok "podman makes and pushes a list" podman_list
ok "skopeo copies a list with all its images" s copy --all "docker://$host/admin/lists:podman" "docker://$host/admin/copy:list"
same "with the same digest" "$(digest_of admin/lists:podman)" "$(digest_of admin/copy:list)"
ok "docker pulls its platform from a list" d pull "$host/admin/copy:list"

# 100 layers, through the engines.
hundred_layers() {
    local layer
    mkdir "$WORK/hundred" && echo "FROM scratch" >"$WORK/hundred/Dockerfile" || return
    for layer in $(seq 100); do
        echo "layer $layer" >"$WORK/hundred/$layer"
        echo "COPY $layer /" >>"$WORK/hundred/Dockerfile"
    done
    d build -q -t "$host/admin/layers:100" "$WORK/hundred"
}
if ENGINE_TIMEOUT=240 ok "an image of 100 layers" hundred_layers; then
    ok "docker pushes it" d push "$host/admin/layers:100"
    same "all are in it" 100 "$(s inspect --raw "docker://$host/admin/layers:100" | jq '.layers | length')"
    engines_forget
    ok "skopeo pulls it" s copy "docker://$host/admin/layers:100" "dir:$WORK/layers-pulled"
fi

# 1,000 tags: one image, then its manifest under each name.
ok "the image of many tags" s copy --format v2s2 "oci:$WORK/layout:hand" "docker://$host/admin/tags:first"
s inspect --raw "docker://$host/admin/tags:first" >"$WORK/manifest.json"
thousand_tags() {
    local number
    for number in $(seq -w 1 1000); do
        printf 'next\nurl = "%s/v2/admin/tags/manifests/t%s"\nupload-file = "%s"\nuser = "admin:%s"\ncacert = "%s"\nresolve = "%s:192.0.2.1"\n' \
            "$url" "$number" "$WORK/manifest.json" "$password" "$WORK/ca.pem" "$host"
        printf 'header = "Content-Type: application/vnd.docker.distribution.manifest.v2+json"\nfail\nsilent\nshow-error\n'
    done | tail -n +2 >"$WORK/tags.curl"
    curl -K "$WORK/tags.curl"
}
ok "1,000 tags" thousand_tags
same "skopeo lists all of them, page by page" 1001 "$(s list-tags "docker://$host/admin/tags" | jq '.Tags | length')"
same "the first page ends where it is told" "200 t0007" "$(api GET "/v2/admin/tags/tags/list?n=8") $(jq -r '.tags[-1]' "$WORK/answer")"
ok "the last of them is pulled" d pull "$host/admin/tags:t1000"

# By hand: what clients do that no client here does. token ACTIONS: one for the repository admin/app.
token() { curl -sSf $at_host -u "admin:$password" "$url/auth/token?service=$host&scope=repository:admin/app:$1" | jq -r .token; }
bearer=$(token pull,push,delete)
# hand METHOD PATH [CURL ARGUMENTS...]: prints the status; the head is in $WORK/head, the body in $WORK/answer.
hand() {
    local method=$1 path=$2
    shift 2
    # shellcheck disable=SC2086
    curl -sS $at_host -H "Authorization: Bearer $bearer" -D "$WORK/head" -o "$WORK/answer" -w '%{http_code}' -X "$method" "$url$path" "$@"
}
header() { tr -d '\r' <"$WORK/head" | sed -n "s/^$1: //Ip" | tail -n 1; }
# shellcheck disable=SC2086
same "HTTP/2" 2 "$(curl -sS $at_host --http2 -o /dev/null -w '%{http_version}' "$url/v2/")"
# shellcheck disable=SC2086
same "HTTP/1.1" 1.1 "$(curl -sS $at_host --http1.1 -o /dev/null -w '%{http_version}' "$url/v2/")"
# shellcheck disable=SC2086
same "without a login the way to one is told" "Bearer realm=\"$url/auth/token\",service=\"$host\"" \
    "$(curl -sS $at_host -o /dev/null -D - "$url/v2/" | tr -d '\r' | sed -n 's/^www-authenticate: //Ip')"

# An upload in chunks that breaks off in the middle of one, and goes on where it was.
head -c 9000000 /dev/urandom >"$WORK/chunks"
chunks=$(file_digest "$WORK/chunks")
same "an upload begins" 202 "$(hand POST /v2/admin/app/blobs/uploads/ -d '')"
at=$(header location)
chunk() { tail -c +$(($1 + 1)) "$WORK/chunks" | head -c "$2" | hand PATCH "${at#"$url"}" -H 'Content-Type: application/octet-stream' --data-binary @- "${@:3}"; }
same "a chunk" 202 "$(chunk 0 3000000 -H 'Content-Range: 0-2999999')"
at=$(header location)
chunk 3000000 3000000 --limit-rate 2M --max-time 1 >/dev/null 2>&1
same "after a break the registry says how far it came" 204 "$(hand GET "${at#"$url"}")"
at=$(header location)
come=$(header range)
come=$((${come#0-} + 1))
if [ "$come" -ge 3000000 ] && [ "$come" -lt 6000000 ]; then pass "which is not less than what was confirmed"; else fail "it says $come"; fi
gap() { chunk $((come + 10)) 10 -H "Content-Range: $((come + 10))-$((come + 19))" 2>/dev/null; }
# Many times: a refusal comes before the chunk was read, and must be heard nevertheless.
same "a chunk that leaves a gap is refused" "40 416" "$(for _ in $(seq 40); do gap; echo; done | sort | uniq -c | awk '{print $1, $2}')"
same "the rest" 202 "$(chunk "$come" $((9000000 - come)) -H "Content-Range: $come-8999999")"
at=$(header location)
same "the end, with a digest that does not fit, is refused" 400 "$(hand PUT "${at#"$url"}?digest=sha256:$(printf '0%.0s' $(seq 64))" -d '')"
grep -q DIGEST_INVALID "$WORK/answer" || fail "and named: $(cat "$WORK/answer")"
upload() {
    hand POST /v2/admin/app/blobs/uploads/ -d '' && at=$(header location) &&
        hand PUT "${at#"$url"}?digest=$chunks" -H 'Content-Type: application/octet-stream' --data-binary "@$WORK/chunks"
}
same "in one piece" "202201" "$(upload)"
same "a range of it" 206 "$(hand GET "/v2/admin/app/blobs/$chunks" -H 'Range: bytes=100-199')"
same "is what was asked for" "$(tail -c +101 "$WORK/chunks" | head -c 100 | sha256sum)" "$(sha256sum <"$WORK/answer")"
same "a mount from a repository" 201 "$(bearer=$(curl -sSf $at_host -u "admin:$password" "$url/auth/token?service=$host&scope=repository:admin/copy:pull,push&scope=repository:admin/app:pull" | jq -r .token)
    hand POST "/v2/admin/copy/blobs/uploads/?mount=$chunks&from=admin/app" -d '')"

# Referrers, as oras attaches a signature or a bill of materials.
subject=$(s inspect --raw "docker://$host/admin/app:hand" >"$WORK/subject.json" && file_digest "$WORK/subject.json")
empty=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
hand POST "/v2/admin/app/blobs/uploads/?digest=$empty" -H 'Content-Type: application/octet-stream' -d '{}' >/dev/null
jq -n --arg empty "$empty" --arg subject "$subject" --argjson size "$(stat -c %s "$WORK/subject.json")" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", artifactType: "application/vnd.example.sbom+json",
    config: {mediaType: "application/vnd.oci.empty.v1+json", digest: $empty, size: 2},
    layers: [{mediaType: "application/vnd.oci.empty.v1+json", digest: $empty, size: 2}],
    subject: {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $subject, size: $size},
    annotations: {"org.example.tool": "by hand"}}' >"$WORK/artifact.json"
artifact=$(file_digest "$WORK/artifact.json")
same "an artifact is attached to an image" 201 "$(hand PUT "/v2/admin/app/manifests/$artifact" -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$WORK/artifact.json")"
same "the registry says that it knows subjects" "$subject" "$(header oci-subject)"
same "it is found" 200 "$(hand GET "/v2/admin/app/referrers/$subject")"
same "with its type and notes" "$artifact application/vnd.example.sbom+json by hand" \
    "$(jq -r '.manifests[0] | "\(.digest) \(.artifactType) \(.annotations["org.example.tool"])"' "$WORK/answer")"
same "a filter leaves it out" "200 0" "$(hand GET "/v2/admin/app/referrers/$subject?artifactType=other/type") $(jq '.manifests | length' "$WORK/answer")"
same "what nothing refers to has an empty list" "200 0" "$(hand GET "/v2/admin/app/referrers/$empty") $(jq '.manifests | length' "$WORK/answer")"
same "deleted" 202 "$(hand DELETE "/v2/admin/app/manifests/$artifact")"
same "it is found no more" "200 0" "$(hand GET "/v2/admin/app/referrers/$subject") $(jq '.manifests | length' "$WORK/answer")"

# Who may not.
refused "nobody pulls a private repository with docker" "unauthorized|denied|authentication" nobody /usr/bin/docker -H "unix://$ENGINES/docker.sock" pull "$host/admin/app:1"
refused "nobody reads it with skopeo" "unauthorized|authentication|denied" nobody skopeo inspect "docker://$host/admin/app:1"
refused "a user without rights learns nothing of it" "not known|unknown|not found|denied" nobody skopeo inspect --creds eve:eves-password "docker://$host/admin/app:1"
refused "nor pushes to it" "unknown|denied|not found|not exist" nobody skopeo copy --dest-creds eve:eves-password "oci:$WORK/layout:hand" "docker://$host/admin/app:eve"
ok "skopeo pushes to a public repository" s copy "oci:$WORK/layout:hand" "docker://$host/admin/open:1"
ok "nobody pulls a public repository with skopeo" nobody skopeo copy "docker://$host/admin/open:1" "dir:$WORK/anonymous"
ok "nobody pulls it with docker" nobody /usr/bin/docker -H "unix://$ENGINES/docker.sock" pull "$host/admin/open:1"
refused "nobody pushes to it" "unauthorized|authentication|denied" nobody skopeo copy "oci:$WORK/layout:hand" "docker://$host/admin/open:2"
refused "a user without rights reads it, but cannot push" "denied" nobody skopeo copy --dest-creds eve:eves-password "oci:$WORK/layout:hand" "docker://$host/admin/open:2"

# Access tokens instead of a password.
new_token() { "$dtr" token create "$@" --ucp-url "https://127.0.0.1:$port" --ucp-insecure-tls --ucp-username admin --ucp-password "$password" -o json | jq -r .token; }
token=$(new_token laptop)
ok "docker logs in with an access token" login d admin "$token"
engines_forget
ok "and pulls" d pull "$host/admin/app:1"
ok "skopeo pushes with it" nobody skopeo copy --dest-creds "admin:$token" "oci:$WORK/layout:hand" "docker://$host/admin/app:token"
reader=$(new_token reader --pull-only)
ok "one that only pulls does" nobody skopeo inspect --creds "admin:$reader" "docker://$host/admin/app:1"
refused "and does not push" "denied" nobody skopeo copy --dest-creds "admin:$reader" "oci:$WORK/layout:hand" "docker://$host/admin/app:reader"
finish
