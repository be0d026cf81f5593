#!/usr/bin/env bash
# deploy/kubernetes and its page, as far as that goes without a cluster: each manifest fits the schemas of Kubernetes
# strictly, from the oldest that the page promises to the newest; names, labels, ports, volumes and secrets fit together;
# the program takes every command line. And that this check bites: manifests broken on purpose are found out.
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" python3-kubernetes
page=$ROOT/docs/kubernetes.md
tag=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
# said PATTERN: the version at its end, of what the page says, wherever its lines break.
said() { tr '\n' ' ' <"$page" | grep -oE "$1" | grep -oE '[0-9]+$'; }
oldest=$(said 'the schemas of Kubernetes 1\.[0-9]+')
newest=$(said 'the schemas of Kubernetes 1\.[0-9]+ to 1\.[0-9]+')
same "the page promises what is looked at" "$oldest" "$(tr '\n' ' ' <"$page" | grep -oE 'Kubernetes 1\.[0-9]+ or newer' | grep -oE '[0-9]+ ' | tr -d ' ')"
versions=$(seq -s, -f '1.%.0f' "$oldest" "$newest")
# manifests FOLDER [PAGE [VERSIONS]]
manifests() {
    python3-kubernetes "$ROOT/tests/lib/manifests.py" --dtr "$dtr" --page "${2:-$page}" --dockerfile "$ROOT/Dockerfile" \
        --image-tag "$tag" --kubernetes "${3:-$versions}" "$1"/*.yaml
}
ok "the manifests hold" manifests "$ROOT/deploy/kubernetes" || finish
note "$(cat "$WORK/.last-output")"

# The page's way to the first replica takes the others away, and nothing else.
without=$(grep -o "sed '[^']*' dtr.yaml" "$page")
(cd "$ROOT/deploy/kubernetes" && eval "$without") >"$WORK/without.yaml"
same "the page's dtr.yaml without replicas" "<   replicas: 3
>   replicas: 0" "$(diff "$ROOT/deploy/kubernetes/dtr.yaml" "$WORK/without.yaml" | grep '^[<>]')"
for name in registry.example.com age1...; do
    ok "the page says what $name is, and it is there" grep -qF "$name" "$page" "$ROOT"/deploy/kubernetes/*.yaml
done

# broken WHAT FILE SED PATTERN: with this change to a file, the check fails, and says so.
broken() {
    rm -rf "$WORK/broken"
    cp -r "$ROOT/deploy/kubernetes" "$WORK/broken"
    sed -i "$3" "$WORK/broken/$2"
    if cmp -s "$ROOT/deploy/kubernetes/$2" "$WORK/broken/$2"; then
        fail "$1: nothing was changed"
    else
        refused "$1" "$4" manifests "$WORK/broken" "$page" "1.$newest"
    fi
}
broken "a misspelt field" dtr.yaml 's/publishNotReadyAddresses/publishNotReadyAdresses/' "publishNotReadyAdresses"
broken "a misspelt field deep inside" dtr.yaml 's/timeoutSeconds/timeoutSecond/' "timeoutSecond"
broken "a field of the wrong type" install.yaml 's/backoffLimit: 2/backoffLimit: "2"/' "backoffLimit"
broken "a field that is there twice" backup.yaml 's/^ *restartPolicy: Never/&\n&/' "twice"
broken "a kind that is unknown" dtr.yaml 's/kind: PodDisruptionBudget/kind: PodDisruptionBudgets/' "PodDisruptionBudgets"
broken "an id that YAML takes for a number" backup.yaml 's/"000000000000"/000000000000/' "not of type 'string'"
broken "a word that Kubernetes does not know" backup.yaml 's/concurrencyPolicy: Forbid/concurrencyPolicy: Never/' "concurrencyPolicy"
broken "a quantity that is none" dtr.yaml 's/500Gi/500GB/' "quantity"
broken "labels that are not selected" dtr.yaml 's/      labels: {app: dtr}/      labels: {app: dtrs}/' "Service registry: selects"
broken "a namespace that is nowhere" install.yaml 's/namespace: dtr/namespace: registry/' "namespace registry"
broken "a port that is not there" dtr.yaml 's/targetPort: http}/targetPort: plain}/' "Service registry: the port plain"
broken "a port that the policy forgets" dtr.yaml 's/, {port: 2380}//' "NetworkPolicy dtr: the port 2380"
broken "a probe of a port that is not there" dtr.yaml 's/port: https, scheme/port: tls, scheme/' "port tls"
broken "a volume that is not there" install.yaml 's/name: storage, mount/name: store, mount/' "mounts store"
broken "a claim that is not there" backup.yaml 's/claimName: backups/claimName: backup/' "claim backup "
broken "a secret that the page does not make" backup.yaml 's/secretName: dtr/secretName: dtr-tls/' "secret dtr-tls"
broken "a key that the secret has not" install.yaml 's/tls.crt/tls.pem/' "tls.pem is not in the secret"
broken "a path in no volume" backup.yaml 's|--report, /backups|--report, /backup|' "/backup/"
broken "another volume for dtr-0" install.yaml 's/50Gi/5Gi/' "data-dtr-0"
broken "a host that is not there" backup.yaml 's/dtr-0.replicas/dtr-0.replica/' "there is no dtr-0.replica.dtr"
broken "a flag that the program has not" dtr.yaml 's/--unless-installed/--if-absent/' "does not take its arguments.*--if-absent"
broken "a value that it does not take" install.yaml 's/--store=etcd/--store=etdc/' "does not take its arguments.*etdc"
broken "a command that it has not" dtr.yaml 's/args: \[serve\]/args: [server]/' "does not take its arguments.*server"
broken "a variable that it does not know" backup.yaml 's/UCP_CA_FILE/UCP_CERT_FILE/' "no variable UCP_CERT_FILE"
broken "a variable that is set nowhere" backup.yaml 's/(JOB).json/(NAME).json/' "NAME\) is set nowhere"
broken "an image of another version" backup.yaml 's/dtr:[0-9.]*$/dtr:9.9.9/' "9\.9\.9"
sed 's/job install/job first/' "$page" >"$WORK/page.md"
refused "a page that names what is not there" "no job first" manifests "$ROOT/deploy/kubernetes" "$WORK/page.md"
finish
