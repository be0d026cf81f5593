"""What must hold of Kubernetes manifests, without a cluster: each document fits the schemas of Kubernetes strictly (a field
that they do not know is an error), and what a schema cannot see fits together: names, labels, ports, volumes, secrets, and
the command lines, which are given to the program itself. Prints what is wrong, one defect a line; fails if there is any.

    manifests.py --dtr PROGRAM --page PAGE.md --dockerfile FILE --image-tag TAG --kubernetes 1.27,1.37 FILE.yaml...
"""

import argparse
import re
import subprocess
import sys

import yaml
from kubernetes_validate import utils as kubernetes

QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
# What the schemas leave open: they know these as text. A field with a value that is not here wants a row.
ENUMERATIONS = {
    "accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "externalTrafficPolicy": {"Cluster", "Local"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "podManagementPolicy": {"OrderedReady", "Parallel"},
    "policyTypes": {"Ingress", "Egress"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "scheme": {"HTTP", "HTTPS"},
}
TYPES = {
    ("Service", "spec"): {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
    ("StatefulSet", "updateStrategy"): {"RollingUpdate", "OnDelete"},
    ("StatefulSet", "seccompProfile"): {"RuntimeDefault", "Unconfined", "Localhost"},
}

defects = []


def defect(where, what):
    defects.append(f"{where}: {what}")


class Loader(yaml.SafeLoader):
    """YAML as the API server takes it: no key twice."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def each(node, parent=""):
    """Every mapping below, with the name of the field that it is in."""
    if isinstance(node, dict):
        yield parent, node
        for key, value in node.items():
            yield from each(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from each(value, parent)


def within(path, folders):
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def fits(labels, selector):
    return all(labels.get(key) == value for key, value in selector.items())


class Pod:
    """A template of pods, in whatever it is in."""

    def __init__(self, document):
        self.kind = document["kind"]
        self.name = document["metadata"]["name"]
        self.where = f"{self.kind} {self.name}"
        spec = document["spec"]
        if self.kind == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = spec["template"]
        self.labels = template.get("metadata", {}).get("labels", {})
        self.spec = template["spec"]
        self.claims = {claim["metadata"]["name"]: claim["spec"] for claim in spec.get("volumeClaimTemplates", [])}
        self.replicas = spec.get("replicas", 1)
        self.set = spec
        self.containers = self.spec.get("initContainers", []) + self.spec["containers"]
        self.ports = {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}

    def own_claims(self):
        return {f"{template}-{self.name}-{n}" for template in self.claims for n in range(self.replicas)}


class Manifests:
    def __init__(self, documents, options):
        self.documents = documents
        self.options = options
        self.helps = {}
        self.pods = []
        with open(options.page, encoding="utf-8") as page:
            self.page = page.read()

    def together(self):
        self.pods = [Pod(d) for d in self.documents if d["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "Job", "CronJob")]
        for check in ("values", "namespaces", "selectors", "ports", "volumes", "hosts", "images", "commands", "steps"):
            getattr(self, check)()

    def of(self, kind):
        return {d["metadata"]["name"]: d for d in self.documents if d["kind"] == kind}

    def schemas(self):
        for document in self.documents:
            for version in self.options.kubernetes.split(","):
                try:
                    used = kubernetes.validate(document, version, strict=True)
                    if used != version:
                        defect("schemas", f"there are none of Kubernetes {version}")
                except kubernetes.ValidationError as error:
                    at = ".".join(str(part) for part in error.path)
                    defect(self.title(document), f"Kubernetes {version}: {at}: {error.message}")
                except (kubernetes.SchemaNotFoundError, kubernetes.VersionNotSupportedError) as error:
                    defect(self.title(document), error.message)

    def title(self, document):
        return f"{document.get('kind')} {document.get('metadata', {}).get('name')}"

    def values(self):
        """Texts that the schemas take whatever they say."""
        for document in self.documents:
            where = self.title(document)
            if not NAME.match(document["metadata"]["name"]):
                defect(where, "is no name for an object")
            for field, node in each(document):
                for key, allowed in ENUMERATIONS.items():
                    value = node.get(key, [])
                    for text in value if isinstance(value, list) else [value]:
                        if text not in allowed:
                            defect(where, f"{key}: {text} is none of {', '.join(sorted(allowed))}")
                allowed = TYPES.get((document["kind"], field))
                if "type" in node and (allowed is None or node["type"] not in allowed):
                    defect(where, f"{field}.type: {node['type']} is not known")
                if field in ("requests", "limits"):
                    for key, value in node.items():
                        if not QUANTITY.match(str(value)):
                            defect(where, f"{field}.{key}: {value} is no quantity")

    def namespaces(self):
        for document in self.documents:
            if document["kind"] == "Namespace":
                continue
            namespace = document["metadata"].get("namespace")
            if namespace not in self.of("Namespace"):
                defect(self.title(document), f"the namespace {namespace} is in no manifest")
        seen = [self.title(d) for d in self.documents]
        for title in {t for t in seen if seen.count(t) > 1}:
            defect(title, "is there twice")

    def selectors(self):
        """Whatever selects pods selects some; a workload its own; an anti-affinity as well."""
        for document in self.documents:
            kind, spec = document["kind"], document.get("spec", {})
            wanted = []
            if kind == "Service":
                wanted.append(spec["selector"])
            elif kind == "PodDisruptionBudget":
                wanted.append(spec["selector"]["matchLabels"])
            elif kind == "NetworkPolicy":
                wanted.append(spec["podSelector"]["matchLabels"])
                wanted += [n["podSelector"]["matchLabels"] for _, n in each(spec.get("ingress", [])) if "podSelector" in n]
            for selector in wanted:
                if not any(fits(pod.labels, selector) for pod in self.pods):
                    defect(self.title(document), f"selects {selector}, and no pod has that")
        for pod in self.pods:
            wanted = [n["labelSelector"]["matchLabels"] for _, n in each(pod.spec.get("affinity", {})) if "labelSelector" in n]
            if "selector" in pod.set:
                wanted.append(pod.set["selector"]["matchLabels"])
            for selector in wanted:
                if not fits(pod.labels, selector):
                    defect(pod.where, f"selects {selector}, and its own pods do not have that")

    def chosen(self, selector):
        return [pod for pod in self.pods if fits(pod.labels, selector)]

    def ports(self):
        """What is said of ports is true of the containers, and of the image."""
        with open(self.options.dockerfile, encoding="utf-8") as file:
            exposed = {int(port) for line in re.findall(r"^EXPOSE (.*)", file.read(), re.M) for port in line.split()}
        for pod in self.pods:
            for port in set(pod.ports.values()) - exposed:
                defect(pod.where, f"the image listens on no port {port}")
            for container in pod.containers:
                own = {port["name"] for port in container.get("ports", [])}
                for field, node in each(container):
                    if field in ("httpGet", "tcpSocket") and node["port"] not in own:
                        defect(pod.where, f"a probe asks the port {node['port']}, which {container['name']} has not")
        for name, service in self.of("Service").items():
            for pod in self.chosen(service["spec"]["selector"]):
                for port in service["spec"]["ports"]:
                    target = port.get("targetPort", port["port"])
                    if target not in pod.ports and target not in pod.ports.values():
                        defect(f"Service {name}", f"the port {target} is none of {pod.where}")
        for name, policy in self.of("NetworkPolicy").items():
            allowed = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", [])}
            for pod in self.chosen(policy["spec"]["podSelector"]["matchLabels"]):
                for port in allowed ^ set(pod.ports.values()):
                    defect(f"NetworkPolicy {name}", f"the port {port} is not both allowed and a port of {pod.where}")

    def secrets(self):
        """The secrets that the page makes, with their keys."""
        made = {}
        for name, rest in re.findall(r"kubectl (?:-n \S+ )?create secret generic (\S+)(.*)", self.page):
            made[name] = {key.split("=")[0] for key in re.findall(r"--from-file=(\S+)", rest)}
        return made

    def volumes(self):
        claims, secrets = self.of("PersistentVolumeClaim"), self.secrets()
        for pod in self.pods:
            volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
            known = set(volumes) | set(pod.claims)
            used = set()
            for volume in volumes.values():
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                if claim is not None and claim not in claims:
                    defect(pod.where, f"the claim {claim} is in no manifest")
                secret = volume.get("secret", {}).get("secretName")
                if secret is not None and secret not in secrets:
                    defect(pod.where, f"the secret {secret} is made nowhere in {self.options.page}")
            for container in pod.containers:
                where = f"{pod.where}, {container['name']}"
                mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
                used |= set(mounts.values())
                for name in set(mounts.values()) - known:
                    defect(where, f"mounts {name}, which is no volume")
                if len(mounts) != len(container.get("volumeMounts", [])):
                    defect(where, "mounts two volumes at one place")
                for path in re.findall(r"(?<![\w:/.])/[\w./$()-]+", "\n".join(self.texts(container))):
                    folder = next((m for m in mounts if within(path, [m])), None)
                    if folder is None:
                        defect(where, f"{path} is in no volume")
                        continue
                    secret = volumes.get(mounts[folder], {}).get("secret", {}).get("secretName")
                    if secret in secrets and path[len(folder) + 1:] not in secrets[secret]:
                        defect(where, f"{path} is not in the secret {secret} as the page makes it")
                if container["args"][0] in ("install", "join", "serve") and "/var/lib/dtr" not in mounts:
                    defect(where, "has no volume for /var/lib/dtr")
                if container.get("securityContext", {}).get("readOnlyRootFilesystem") and "/tmp" not in mounts:
                    defect(where, "cannot write to /tmp")
            for name in known - used:
                defect(pod.where, f"the volume {name} is mounted nowhere")
            # What stands in for a volume of the set: the same, or the set would not take it.
            for name, claim in claims.items():
                for template, spec in pod.claims.items():
                    if name.startswith(f"{template}-") and (claim["spec"] != spec or name not in pod.own_claims()):
                        defect(f"PersistentVolumeClaim {name}", f"is not what {pod.where} would make")
        mounted = {v["persistentVolumeClaim"]["claimName"] for p in self.pods for v in p.spec.get("volumes", []) if "persistentVolumeClaim" in v}
        for name in set(claims) - mounted:
            defect(f"PersistentVolumeClaim {name}", "is used by nothing")

    def texts(self, container):
        return container.get("args", []) + [e["value"] for e in container.get("env", []) if "value" in e]

    def hosts(self):
        """A replica is addressed as its pod is called, through a service without an address."""
        names = set()
        for pod in self.pods:
            service = pod.set.get("serviceName")
            if service is None:
                continue
            found = self.of("Service").get(service)
            if found is None or found["spec"].get("clusterIP") != "None" or not fits(pod.labels, found["spec"]["selector"]):
                defect(pod.where, f"{service} is no headless service of its pods")
                continue
            zone = f"{service}.{found['metadata']['namespace']}.svc.cluster.local"
            names |= {f"{pod.name}-{n}.{zone}" for n in range(pod.replicas)} | {f"$(POD).{zone}"}
            if f"*.{zone}" not in self.page:
                defect(self.options.page, f"names no certificate for *.{zone}")
        for pod in self.pods:
            texts = [t for c in pod.containers for t in self.texts(c)]
            texts += [h for alias in pod.spec.get("hostAliases", []) for h in alias["hostnames"]]
            for host in re.findall(r"[\w$().-]+\.svc\.cluster\.local", "\n".join(texts)):
                if host not in names:
                    defect(pod.where, f"there is no {host}")

    def images(self):
        images = {c["image"] for pod in self.pods for c in pod.containers}
        if len(images) != 1:
            defect("images", f"there are several: {', '.join(sorted(images))}")
        for image in images:
            if image.rsplit(":", 1)[-1] != self.options.image_tag:
                defect("images", f"{image} is not of the version {self.options.image_tag}")

    def help(self, args):
        """What the program says of these arguments; it judges those before --help."""
        key = tuple(args)
        if key not in self.helps:
            done = subprocess.run([self.options.dtr, *args, "--help"], capture_output=True, text=True, timeout=60, check=False)
            good = done.returncode == 0 and "Usage: dtr" in done.stdout
            self.helps[key] = (good, done.stdout if good else done.stderr.strip().replace("\n", " "))
        return self.helps[key]

    def commands(self):
        for pod in self.pods:
            for container in pod.containers:
                where = f"{pod.where}, {container['name']}"
                if "command" in container:
                    defect(where, "does not start as the image does")
                good, said = self.help(container["args"])
                if not good:
                    defect(where, f"dtr does not take its arguments: {said}")
                    continue
                self.environment(where, container, re.findall(r"\[env:\s+(\w+)", said))

    def environment(self, where, container, known):
        """Each variable is one of the program's, or of another's value; each that a text names was set before."""
        variables = [entry["name"] for entry in container.get("env", [])]
        texts = self.texts(container)
        named = set(re.findall(r"\$\((\w+)\)", "\n".join(texts)))
        for name in variables:
            if name not in named and name not in known and re.sub("_FILE$", "", name) not in known:
                defect(where, f"dtr {container['args'][0]} knows no variable {name}")
        if len(set(variables)) != len(variables):
            defect(where, "sets a variable twice")
        for name in named - set(variables):
            defect(where, f"$({name}) is set nowhere")
        before = set()
        for entry in container.get("env", []):
            for name in (set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) & set(variables)) - before:
                defect(where, f"{entry['name']} uses {name}, which is set after it")
            before.add(entry["name"])

    def steps(self):
        """What the page has typed is about something that is there."""
        files = {file.rsplit("/", 1)[-1] for file in self.options.files}
        applied = set(re.findall(r"kubectl apply -f (\S+\.yaml)", self.page)) | set(re.findall(r"' (\S+\.yaml) \| kubectl", self.page))
        for file in applied - files:
            defect(self.options.page, f"there is no {file}")
        for file in files - applied:
            defect(self.options.page, f"never applies {file}")
        for kind, name in re.findall(r"\b(job)/?\s?(\w+)", "\n".join(re.findall(r"kubectl -n .*", self.page))):
            if name not in self.of(kind.capitalize()):
                defect(self.options.page, f"there is no {kind} {name}")
        for namespace in re.findall(r"kubectl create namespace (\S+)", self.page) + re.findall(r"kubectl -n (\S+)", self.page):
            if namespace not in self.of("Namespace"):
                defect(self.options.page, f"there is no namespace {namespace}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("dtr", "page", "dockerfile", "image-tag", "kubernetes"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    documents = []
    for name in options.files:
        try:
            with open(name, encoding="utf-8") as file:
                documents += [d for d in yaml.load_all(file, Loader=Loader) if d]
        except yaml.YAMLError as error:
            defect(name, str(error).replace("\n", " "))
    manifests = None
    if not defects:
        manifests = Manifests(documents, options)
        manifests.schemas()
    # What fits no schema cannot be looked into.
    if not defects:
        manifests.together()
    for line in dict.fromkeys(defects):
        print(line)
    if not defects:
        print(f"{len(documents)} documents, {len(manifests.pods)} templates of pods")
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
