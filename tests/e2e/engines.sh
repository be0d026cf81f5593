#!/usr/bin/env bash
# The test environment itself, against Debian's docker-registry over TLS: what fails here is not the product's fault.
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

need jq skopeo podman
make_certificate "$WORK/tls" registry.test
start_debian_registry remote "$WORK/tls/cert.pem" "$WORK/tls/key.pem"
registry="registry.test:$REGISTRY_PORT"

engines_start registry.test
engines_trust "$registry" "$WORK/tls/ca.pem"
image_context "$WORK/context"

ok "docker builds an image from files of this machine" image_build "$registry/team/app:1" "$WORK/context"
ok "a container starts from it" d run -i --rm --network=host "$registry/team/app:1" /bin
ok "docker pushes it over verified TLS" d push "$registry/team/app:1"
pushed=$(s inspect "docker://$registry/team/app:1" | jq -r .Digest)
engines_forget
ok "docker pulls it" d pull "$registry/team/app@$pushed"
ok "skopeo copies it" s copy "docker://$registry/team/app:1" "docker://$registry/team/copy:1"
same "skopeo's copy has the same digest" "$pushed" "$(s inspect "docker://$registry/team/copy:1" | jq -r .Digest)"
ok "podman pulls it" p pull "$registry/team/app:1"
ok "podman pushes it" p push "$registry/team/app:1" "docker://$registry/team/podman:1"
image_oci "$WORK/layout" hand
ok "skopeo takes a layout made by hand" s copy "oci:$WORK/layout:hand" "docker://$registry/team/hand:1"
ok "docker pulls what was made by hand" d pull "$registry/team/hand:1"
finish
