# The conformance test of OCI's distribution specification, against one replica. Source after common.sh.
#
#     conforms "NAME" ADDRESS PREFIX    # one result; makes the repositories admin/PREFIX-1 and admin/PREFIX-2
#
# The script has `password`, the administrator's.
# shellcheck shell=bash

conforms() {
    ok "$1" conformance_of "$2" "$3" && note "$(tail -n 1 "$WORK/.last-output")"
}

conformance_of() {
    local at=$1 prefix=$2 results=$WORK/conformance-$2 n tests wrong
    for n in 1 2; do
        curl -skf -o /dev/null -u "admin:$password" "https://$at/api/v0/repositories/admin" \
            -H 'content-type: application/json' -d "{\"name\":\"$prefix-$n\"}" || return
    done
    OCI_REGISTRY=$at OCI_TLS=insecure OCI_REPO1=admin/$prefix-1 OCI_REPO2=admin/$prefix-2 OCI_USERNAME=admin \
        OCI_PASSWORD=$password OCI_RESULTS_DIR=$results timeout 120 conformance
    tests=$(grep -o '<testcase' "$results/junit.xml" | wc -l)
    wrong=$(grep -oE '<(failure|error)\b' "$results/junit.xml" | wc -l)
    echo "$tests tests, $wrong failed"
    [ "$tests" -gt 0 ] && [ "$wrong" -eq 0 ]
}
