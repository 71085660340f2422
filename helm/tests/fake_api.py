"""A small stand-in for the Kubernetes API server, with what Helm and a hook's pod ask of one.

It knows discovery, OpenAPI (as far as Helm looks into it), reading, lists with label selectors, watches, creation, server-side
apply, and deletion of the kinds in KINDS. It is strict where the real one is: unknown fields are refused (by the schemas of the
version that it claims to be), so are changes of immutable fields; a service account may do what its roles say.

Not here: admission, defaults, garbage collection, controllers. Jobs, pods and StatefulSets become what `run` makes of them: the
function is called with each that was created or changed, in a thread of its own, and returns its status.

Server-side apply replaces the object, but for status and what the server gave it. With one manager, as here, that is what merging
by ownership comes to: what the manager no longer says is gone.
"""

import base64
import copy
import datetime
import ipaddress
import json
import re
import ssl
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from immutable import changes

# (group/version, plural) of each kind.
KINDS = {
    "Namespace": ("v1", "namespaces"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Pod": ("v1", "pods"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "Job": ("batch/v1", "jobs"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
}
GROUPS = sorted({version for version, _ in KINDS.values()})
# Kinds whose status somebody waits for.
LIVING = ("Job", "Pod", "StatefulSet")
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
ADMIN = "the-administrator"


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str):
        super().__init__(message)
        self.body = {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code,
        }


def done(item: dict) -> dict:
    """The status of something that went well at once."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"status": "True", "lastTransitionTime": now, "lastProbeTime": now}
    if item["kind"] == "Job":
        kinds = [{"type": "SuccessCriteriaMet", **condition}, {"type": "Complete", **condition}]
        return {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": kinds}
    if item["kind"] == "Pod":
        return {"phase": "Succeeded", "conditions": []}
    replicas = item["spec"]["replicas"]
    revision = f"{item['metadata']['name']}-1"
    return {
        "observedGeneration": item["metadata"]["generation"], "replicas": replicas, "readyReplicas": replicas,
        "availableReplicas": replicas, "currentReplicas": replicas, "updatedReplicas": replicas,
        "currentRevision": revision, "updateRevision": revision,
    }


class FakeApi:
    """`with FakeApi() as api:` serves until the block ends."""

    def __init__(self, version: str = "1.37", run=done, listen: str = "127.0.0.1", names: tuple[str, ...] = ()):
        self.version, self.run, self.listen, self.names = version, run, listen, names
        self.objects: dict[tuple[str, str, str], dict] = {}
        self.tokens: dict[str, str] = {}  # of service accounts: token to namespace/name
        self.log: list[str] = []  # every change, "verb Kind/name"
        self.logs: dict[str, str] = {}  # what pods said
        self.gone = lambda item: None  # called with what was deleted
        self.failures: list[str] = []  # of `run`
        self.revision = 0
        self.events: list[tuple[int, str, dict]] = []
        self.changed = threading.Condition(threading.RLock())
        self.stopping = False

    # ---- as a program

    def __enter__(self):
        self.ca, certificate = self_signed(["localhost", "kubernetes.default.svc", *self.names])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        import tempfile

        with tempfile.NamedTemporaryFile("wb") as file:
            file.write(certificate)
            file.flush()
            context.load_cert_chain(file.name)
        handler = type("Handler", (Handler,), {"api": self})
        self.server = ThreadingHTTPServer((self.listen, 0), handler)
        self.server.daemon_threads = True
        # The handshake happens in the connection's own thread, at its first read.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self) -> str:
        cluster = {"server": f"https://localhost:{self.port}", "certificate-authority-data": base64.b64encode(self.ca).decode()}
        return yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": ADMIN}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        })

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, as its pods get one."""
        token = uuid.uuid4().hex
        self.tokens[token] = f"{namespace}/{account}"
        return token

    # ---- objects

    def get(self, kind: str, name: str, namespace: str = "prod") -> dict | None:
        with self.changed:
            return copy.deepcopy(self.objects.get((kind, namespace, name)))

    def all(self, kind: str) -> list[dict]:
        with self.changed:
            return [copy.deepcopy(item) for (each, _, _), item in self.objects.items() if each == kind]

    def store(self, kind: str, namespace: str, name: str, item: dict, event: str):
        self.revision += 1
        item["metadata"]["resourceVersion"] = str(self.revision)
        if event == "DELETED":
            del self.objects[kind, namespace, name]
        else:
            self.objects[kind, namespace, name] = item
        self.events.append((self.revision, event, copy.deepcopy(item)))
        self.changed.notify_all()

    def write(self, kind: str, namespace: str, name: str, wanted: dict, create: bool) -> dict:
        """Creates it, or puts it in the place of what is there."""
        if wanted.get("kind", kind) != kind or wanted["metadata"].get("name", name) != name:
            raise Refused(400, "BadRequest", "the object is not the one of the path")
        wanted = copy.deepcopy(wanted)
        wanted.setdefault("kind", kind)
        wanted.setdefault("apiVersion", KINDS[kind][0])
        for key in ("status",):
            wanted.pop(key, None)
        # Times and the like that clients send as null are as if left out.
        wanted["metadata"] = {key: value for key, value in wanted["metadata"].items() if value is not None and key != "managedFields"}
        try:
            kubernetes_validate.validate(wanted, self.version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(step) for step in error.path)
            raise Refused(422, "Invalid", f"{kind} {name} is invalid: {where}: {error.message}") from None
        with self.changed:
            old = self.objects.get((kind, namespace, name))
            if old and create:
                raise Refused(409, "AlreadyExists", f"{KINDS[kind][1]} \"{name}\" already exists")
            if old and (fields := changes(old, wanted)):
                raise Refused(422, "Invalid", f"{kind} {name} is invalid: {', '.join(fields)}: field is immutable")
            self.log.append(f"{'update' if old else 'create'} {kind}/{name}")
            meta = {
                "namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1,
                "creationTimestamp": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            if old:
                meta.update({key: old["metadata"][key] for key in ("uid", "creationTimestamp", "generation")})
                if old.get("spec") != wanted.get("spec"):
                    meta["generation"] += 1
                if "status" in old:
                    wanted["status"] = old["status"]
            wanted["metadata"] = {**wanted["metadata"], **meta, "name": name}
            if kind == "Secret":
                plain = wanted.pop("stringData", {})
                coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
                wanted["data"] = {**wanted.get("data", {}), **coded}
            self.store(kind, namespace, name, wanted, "MODIFIED" if old else "ADDED")
            if kind in LIVING and (not old or old["metadata"]["generation"] != meta["generation"]):
                threading.Thread(target=self.live, args=(kind, namespace, name), daemon=True).start()
            return copy.deepcopy(wanted)

    def live(self, kind: str, namespace: str, name: str):
        item = self.get(kind, name, namespace)
        try:
            status = self.run(item) if item else None
        except Exception as error:  # the test reads it
            self.failures.append(f"{kind}/{name}: {error}")
            condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": str(error)}
            status = {"phase": "Failed"} if kind == "Pod" else {"failed": 1, "conditions": [condition]}
        with self.changed:
            now = self.objects.get((kind, namespace, name))
            if status is not None and now and now["metadata"]["uid"] == item["metadata"]["uid"]:
                self.store(kind, namespace, name, {**now, "status": status, "metadata": dict(now["metadata"])}, "MODIFIED")

    def delete(self, kind: str, namespace: str, name: str) -> dict:
        with self.changed:
            item = self.objects.get((kind, namespace, name))
            if not item:
                raise Refused(404, "NotFound", f"{KINDS[kind][1]} \"{name}\" not found")
            self.log.append(f"delete {kind}/{name}")
            self.store(kind, namespace, name, dict(item, metadata=dict(item["metadata"])), "DELETED")
        self.gone(item)
        return item

    def may(self, token: str, verb: str, kind: str, namespace: str, name: str | None):
        """Roles of service accounts; the administrator may everything, strangers nothing."""
        if token == ADMIN:
            return
        account = self.tokens.get(token)
        if not account:
            raise Refused(401, "Unauthorized", "Unauthorized")
        group, plural = KINDS[kind][0].rpartition("/")[0], KINDS[kind][1]
        with self.changed:
            for binding in [item for (each, space, _), item in self.objects.items() if (each, space) == ("RoleBinding", namespace)]:
                if account not in [f"{subject['namespace']}/{subject['name']}" for subject in binding["subjects"]]:
                    continue
                role = self.objects.get(("Role", namespace, binding["roleRef"]["name"]), {"rules": []})
                for rule in role["rules"]:
                    names = rule.get("resourceNames")
                    if group in rule["apiGroups"] and plural in rule["resources"] and verb in rule["verbs"] and (not names or name in names):
                        return
        raise Refused(403, "Forbidden", f"{plural} \"{name}\" is forbidden: {account} cannot {verb} it in {namespace}")


def self_signed(names: list[str]) -> tuple[bytes, bytes]:
    """A CA's certificate, and a server's with its key, in PEM."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def make(subject, issuer, key, signer, extensions):
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = make(named("fake cluster"), named("fake cluster"), ca_key, ca_key, [(x509.BasicConstraints(True, None), True), (usage, True)])

    def alternative(name):
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    extensions = [
        (x509.SubjectAlternativeName([alternative(name) for name in [*names, "127.0.0.1"]]), False),
        (x509.BasicConstraints(False, None), True),
        (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    server = make(named("fake apiserver"), ca.subject, key, ca_key, extensions)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ca.public_bytes(pem), server.public_bytes(pem) + private


def selected(labels: dict, selector: str) -> bool:
    """Equality and `in` of a label selector."""
    for key, operator, value in re.findall(r"([\w./-]+)\s*(==|=|!=|in)\s*(\([^)]*\)|[^,]*)", selector):
        values = [item.strip() for item in value.strip("()").split(",")]
        if (labels.get(key) in values) == (operator == "!="):
            return False
    return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def log_message(self, *_):
        pass

    def answer(self, body, code: int = 200, kind: str = "application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> dict:
        length = int(self.headers.get("Content-Length") or 0)
        # Server-side apply sends YAML, of which JSON is a part.
        return yaml.safe_load(self.rfile.read(length)) if length else {}

    def handle_one(self):
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            body = self.body()
            if not self.documents(url.path):
                self.objects(url.path, body)
        except Refused as refused:
            self.answer(refused.body, refused.body["code"])
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_one

    def documents(self, path: str) -> bool:
        """Version, discovery and OpenAPI."""
        major, minor = self.api.version.split(".")
        if path == "/version":
            self.answer({"major": major, "minor": minor, "gitVersion": f"v{self.api.version}.0", "platform": "linux/amd64"})
        elif path == "/api":
            self.answer({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        elif path == "/apis":
            groups = []
            for full in GROUPS:
                if "/" in full:
                    version = {"groupVersion": full, "version": full.split("/")[1]}
                    groups.append({"name": full.split("/")[0], "versions": [version], "preferredVersion": version})
            self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        elif (full := re.sub("^/apis?/", "", path)) in GROUPS:
            resources = [
                {
                    "name": plural, "singularName": kind.lower(), "namespaced": kind != "Namespace", "kind": kind,
                    "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                }
                for kind, (version, plural) in KINDS.items() if version == full
            ]
            self.answer({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": full, "resources": resources})
        elif path == "/openapi/v3":
            paths = {f"{'apis' if '/' in full else 'api'}/{full}" for full in GROUPS}
            self.answer({"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in paths}})
        elif path.startswith("/openapi/v3/"):
            self.answer(self.openapi(re.sub("^/openapi/v3/apis?/", "", path)))
        else:
            return False
        return True

    def openapi(self, full: str) -> dict:
        """As much as Helm looks at: which kinds' PATCH takes `fieldValidation` and `dryRun`."""
        parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation", "fieldManager")]
        group, _, version = full.rpartition("/")
        paths = {}
        for kind, (each, plural) in KINDS.items():
            if each == full:
                place = f"/{'apis' if group else 'api'}/{full}/namespaces/{{namespace}}/{plural}/{{name}}"
                kinds = {"group": group, "version": version, "kind": kind}
                patch = {"parameters": parameters, "x-kubernetes-group-version-kind": kinds, "responses": {}, "requestBody": {"content": {}}}
                paths[place] = {"patch": patch}
        return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths, "components": {"schemas": {}}}

    def objects(self, path: str, body: dict):
        found = PATH.fullmatch(path)
        full = found and (f"{found['group']}/{found['version']}" if found["group"] else found["version"])
        kinds = found and [kind for kind, place in KINDS.items() if place == (full, found["plural"])]
        if found and found["plural"] == "namespaces" and found["version"] == "v1" or not kinds:
            # Any namespace exists.
            if path.startswith("/api/v1/namespaces/") and found and not found["name"] is None:
                return self.answer({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": found["name"]}})
            raise Refused(404, "NotFound", f"nothing is at {path}")
        kind, namespace, name = kinds[0], found["namespace"] or "", found["name"]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}[self.command]
        self.api.may(token, verb, kind, namespace, name)
        if self.command == "GET" and found["sub"] == "log":
            return self.answer(self.api.logs.get(name, ""), kind="text/plain")
        if self.command == "GET" and name:
            item = self.api.get(kind, name, namespace)
            if not item:
                raise Refused(404, "NotFound", f"{found['plural']} \"{name}\" not found")
            return self.answer(item)
        if self.command == "GET":
            return self.watch(kind, namespace) if self.query.get("watch") in ("true", "1") else self.list(kind, namespace)
        if self.command == "POST":
            return self.answer(self.api.write(kind, namespace, body["metadata"]["name"], body, create=True), 201)
        if self.command == "DELETE":
            return self.answer(self.api.delete(kind, namespace, name))
        if self.command == "PATCH" and not self.headers["Content-Type"].startswith("application/apply-patch+yaml"):
            body = merged(self.api.get(kind, name, namespace) or {}, body)
        there = self.api.get(kind, name, namespace)
        self.answer(self.api.write(kind, namespace, name, body, create=False), 200 if there else 201)

    def matches(self, item: dict, kind: str, namespace: str) -> bool:
        if item["kind"] != kind or (namespace and item["metadata"]["namespace"] != namespace):
            return False
        fields = dict(part.split("=", 1) for part in self.query.get("fieldSelector", "").split(",") if "=" in part)
        if fields.get("metadata.name", item["metadata"]["name"]) != item["metadata"]["name"]:
            return False
        return selected(item["metadata"].get("labels", {}), self.query.get("labelSelector", ""))

    def list(self, kind: str, namespace: str):
        with self.api.changed:
            items = [copy.deepcopy(item) for item in self.api.objects.values() if self.matches(item, kind, namespace)]
            revision = str(self.api.revision)
        self.answer({"kind": f"{kind}List", "apiVersion": KINDS[kind][0], "metadata": {"resourceVersion": revision}, "items": items})

    def watch(self, kind: str, namespace: str):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen = int(self.query.get("resourceVersion") or 0)
        ends = time.monotonic() + float(self.query.get("timeoutSeconds") or 60)

        def send(event: str, item: dict):
            line = json.dumps({"type": event, "object": item}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()

        if self.query.get("sendInitialEvents") == "true":
            with self.api.changed:
                there = [copy.deepcopy(item) for item in self.api.objects.values() if self.matches(item, kind, namespace)]
                seen = self.api.revision
            for item in there:
                send("ADDED", item)
            end = {"resourceVersion": str(seen), "annotations": {"k8s.io/initial-events-end": "true"}}
            send("BOOKMARK", {"kind": kind, "apiVersion": KINDS[kind][0], "metadata": end})
        while time.monotonic() < ends and not self.api.stopping:
            with self.api.changed:
                fresh = [event for event in self.api.events if event[0] > seen]
                if not fresh:
                    self.api.changed.wait(0.5)
            for revision, event, item in fresh:
                seen = revision
                if self.matches(item, kind, namespace):
                    send(event, item)
        self.wfile.write(b"0\r\n\r\n")


def merged(base, over):
    """A JSON merge patch."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    out = dict(base)
    for key, value in over.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(base.get(key), value)
    return out
