# The conformance test of OCI's distribution specification, against one replica. Source after common.sh.
#
#     conforms "NAME" ADDRESS PREFIX [VERSION]    # one result; makes the repositories admin/PREFIX-1 and admin/PREFIX-2
#
# The script has `password`, the administrator's. VERSION is the tool's OCI_VERSION (1.1 unless given; dev has more).
# The test passes when the tool's own exit status says so *and* at least CONFORMANCE_LEAST cases passed: a tool that
# reached nothing, or whose report has another form one day, must not look like a registry that conforms.
# shellcheck shell=bash

CONFORMANCE_LEAST=${CONFORMANCE_LEAST:-650}

conforms() {
    ok "$1" conformance_of "$2" "$3" "${4:-1.1}" && note "$(tail -n 1 "$WORK/.last-output")"
}

conformance_of() {
    local at=$1 prefix=$2 n
    # The tool knows no "trust anything"; Go reads its authorities from here.
    curl -skSf "https://$at/ca" -o "$WORK/conformance-ca.pem" || return
    for n in 1 2; do
        curl -skf -o /dev/null -u "admin:$password" "https://$at/api/v0/repositories/admin" \
            -H 'content-type: application/json' -d "{\"name\":\"$prefix-$n\"}" || return
    done
    conformance_run "$at" "$prefix" "$3"
}

# conformance_run ADDRESS PREFIX VERSION: the tool alone, and what its report says.
conformance_run() {
    local at=$1 prefix=$2 results=$WORK/conformance-$2
    SSL_CERT_FILE=$WORK/conformance-ca.pem OCI_REGISTRY=$at OCI_TLS=enabled OCI_VERSION=$3 OCI_REPO1=admin/$prefix-1 \
        OCI_REPO2=admin/$prefix-2 OCI_USERNAME=admin OCI_PASSWORD=$password OCI_RESULTS_DIR=$results \
        timeout 180 conformance >"$WORK/conformance.log" 2>&1
    conformance_verdict $? "$results/junit.xml" "$3"
}

# conformance_verdict STATUS REPORT VERSION: of a run that ended with this exit status.
conformance_verdict() {
    local status=$1 passed wrong
    passed=$(grep -cE '<testcase .*status="passed"' "$2")
    wrong=$(grep -E '<testcase .*status="(failure|error)"' "$2" | sed -n 's/.* name="\([^"]*\)".*/\1/p')
    [ -z "$wrong" ] || printf 'failed: %s\n' "$wrong" | head -n 20
    echo "version $3: $passed passed, $(grep -c . <<<"$wrong") failed, exit status $status"
    [ "$status" -eq 0 ] && [ -z "$wrong" ] && [ "$passed" -ge "$CONFORMANCE_LEAST" ]
}
