"""What a node does with pods, and a controller with a StatefulSet, done with Docker containers.

`Pods.run` and `Pods.gone` go into the stand-in for the API server: whatever Helm sends there is then really run, from the objects
as they were sent: image, command, arguments, variables (with `$(NAME)` in them), mounts of ConfigMaps, Secrets (with their modes
and groups), claims and empty directories, service account tokens, user and group, read-only root, dropped capabilities,
limits of memory, probes, grace periods; names as the headless service gives them.

Not here: scheduling, evictions, network policies, services' addresses (a service's name leads to any of its pods, ready or not).
"""

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
import uuid
from pathlib import Path

from chart import selects

from fake_api import FakeApi, done

ACCOUNT_DIR = "var/run/secrets/kubernetes.io/serviceaccount"


def docker(*args, check: bool = True, timeout: float = 120) -> str:
    run = subprocess.run(["docker", *map(str, args)], capture_output=True, text=True, timeout=timeout)
    if check and run.returncode:
        raise RuntimeError(f"docker {' '.join(map(str, args))[:300]}: {run.stderr.strip() or run.stdout.strip()}")
    return run.stdout + ("" if check else run.stderr)


def there(image: str) -> bool:
    return shutil.which("docker") is not None and subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", str(quantity)).groups()
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[unit]


class Pods:
    """`with Pods(directory) as pods:`: a network, an API server that its containers reach, and the pods themselves."""

    def __init__(self, directory: Path, version: str = "1.37"):
        self.directory = directory
        self.network = f"conclave-chart-{uuid.uuid4().hex[:8]}"
        self.said: list[str] = []  # what happened, in order
        self.exits: dict[str, tuple[int, float, str]] = {}  # of servers that were told to stop: code, seconds, last log
        self.version = version
        self.lock = threading.RLock()

    def __enter__(self):
        docker("network", "create", self.network)
        (self.gateway,) = [item["Gateway"] for item in json.loads(docker("network", "inspect", self.network))[0]["IPAM"]["Config"]]
        self.api = FakeApi(self.version, self.run, listen="0.0.0.0", names=(self.gateway,))
        self.api.gone = self.gone
        self.api.__enter__()
        return self

    def __exit__(self, *_):
        self.api.__exit__()
        for container in docker("ps", "-aq", "--filter", f"network={self.network}", check=False).split():
            docker("rm", "-f", "-v", container, check=False)
        docker("network", "rm", self.network, check=False)

    # ---- what the API server calls

    def run(self, item: dict) -> dict | None:
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        if item["kind"] == "StatefulSet":
            with self.lock:
                self.reconcile(item)
            return done(item)
        template = item if item["kind"] == "Pod" else item["spec"]["template"]
        pod = {"metadata": {**template["metadata"], "name": name, "namespace": namespace}, "spec": template["spec"]}
        container = self.start(pod)
        code = int(docker("wait", container, timeout=180).strip())
        self.api.logs[name] = docker("logs", container, check=False)
        self.said.append(f"{item['kind']} {name} ended with {code}")
        docker("rm", "-f", "-v", container)
        if code:
            raise RuntimeError(f"exit code {code}: {self.api.logs[name]}")
        return done(item)

    def gone(self, item: dict):
        if item["kind"] == "StatefulSet":
            with self.lock:
                for name in sorted(self.servers(item["metadata"]["name"]), reverse=True):
                    self.stop(name)

    # ---- the StatefulSet

    def servers(self, stateful: str) -> dict[str, str]:
        """Its pods that exist, and which template each was made from."""
        lines = docker("ps", "-a", "--filter", f"network={self.network}", "--format", '{{.Label "pod"}} {{.Label "template"}}')
        found = dict(line.split(" ", 1) for line in lines.splitlines())
        return {name: template for name, template in found.items() if re.fullmatch(rf"{re.escape(stateful)}-\d+", name)}

    def reconcile(self, item: dict):
        name, spec = item["metadata"]["name"], item["spec"]
        assert spec["podManagementPolicy"] == "Parallel"
        template = str(hash(json.dumps(spec["template"], sort_keys=True)))
        wanted = [f"{name}-{ordinal}" for ordinal in range(spec["replicas"])]
        for extra in sorted(set(self.servers(name)) - set(wanted), reverse=True):
            self.stop(extra)
        fresh = [pod for pod in wanted if pod not in self.servers(name)]
        for pod in fresh:
            self.start_server(item, pod, template)
        for pod in fresh:
            self.wait_started(item, pod)
        # Newcomers of a cluster that exists are not ready before somebody adds them, and nobody waits for them here.
        if len(fresh) == len(wanted) or not fresh:
            for pod in wanted:
                self.wait_ready(item, pod)
        if spec["updateStrategy"]["type"] != "RollingUpdate":
            return
        for pod in reversed(wanted):
            if self.servers(name)[pod] != template:
                self.stop(pod)
                self.start_server(item, pod, template)
                self.wait_started(item, pod)
                self.wait_ready(item, pod)
                time.sleep(spec["minReadySeconds"])
                self.wait_ready(item, pod)

    def start_server(self, item: dict, name: str, template: str):
        spec = item["spec"]
        meta = {**spec["template"]["metadata"], "name": name, "namespace": item["metadata"]["namespace"]}
        pod = {"metadata": meta, "spec": json.loads(json.dumps(spec["template"]["spec"]))}
        for claim in spec.get("volumeClaimTemplates", []):
            pod["spec"]["volumes"].append({"name": claim["metadata"]["name"], "claim": f"{claim['metadata']['name']}-{name}"})
        self.start(pod, hostname=name, subdomain=spec["serviceName"], template=template)
        self.said.append(f"start {name}")

    def stop(self, name: str):
        """As a node does: SIGTERM, and SIGKILL after the grace period."""
        pod = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", self.container(name)))
        grace = int(pod["grace"])
        began = time.monotonic()
        docker("stop", "--time", grace, self.container(name), timeout=grace + 30)
        took = time.monotonic() - began
        code = int(docker("inspect", "--format", "{{.State.ExitCode}}", self.container(name)))
        self.exits[name] = (code, took, docker("logs", "--tail", 60, self.container(name), check=False))
        docker("rm", "-f", "-v", self.container(name))
        self.said.append(f"stop {name}: {code} after {took:.1f} s")

    def lose(self, item: dict, name: str):
        """The pod is gone without a word; the controller makes it anew, with the same claim."""
        with self.lock:
            template = self.servers(item["metadata"]["name"])[name]
            docker("kill", "--signal", "KILL", self.container(name))
            docker("rm", "-f", "-v", self.container(name))
            self.said.append(f"lose {name}")
            self.start_server(item, name, template)
            self.wait_started(item, name)

    # ---- one pod

    def container(self, name: str) -> str:
        return f"{self.network}-{name}"

    def start(self, pod: dict, hostname: str = "", subdomain: str = "", template: str = "") -> str:
        """Its one container; returns the container's name."""
        meta, spec = pod["metadata"], pod["spec"]
        name, namespace = meta["name"], meta["namespace"]
        (main,) = spec["containers"]
        context = {**spec["securityContext"], **main.get("securityContext", {})}
        assert context["runAsNonRoot"] and context["runAsUser"] > 0
        args = ["--name", self.container(name), "--hostname", hostname or name, "--network", self.network]
        args += ["--label", f"pod={name}", "--label", f"template={template}", "--label", f"grace={spec.get('terminationGracePeriodSeconds', 30)}"]
        args += ["--user", f"{context['runAsUser']}:{context.get('runAsGroup', 0)}"]
        if "fsGroup" in context:
            args += ["--group-add", context["fsGroup"]]
        if context.get("readOnlyRootFilesystem"):
            args += ["--read-only"]
        for capability in context.get("capabilities", {}).get("drop", []):
            args += ["--cap-drop", capability]
        if context.get("allowPrivilegeEscalation") is False:
            args += ["--security-opt", "no-new-privileges"]
        if limit := main.get("resources", {}).get("limits", {}).get("memory"):
            args += ["--memory", bytes_of(limit)]
        for alias in self.names(meta, subdomain):
            args += ["--network-alias", alias]
        args += ["--add-host", f"kubernetes.default.svc:{self.gateway}"]
        for key, value in self.environment(pod, main).items():
            args += ["--env", f"{key}={value}"]
        for mount in self.mounts(pod, main):
            args += mount
        command = list(main.get("command", []))
        if command:
            args += ["--entrypoint", command[0]]
        docker("run", "--detach", *args, main["image"], *command[1:], *main.get("args", []))
        return self.container(name)

    def names(self, meta: dict, subdomain: str) -> list[str]:
        """What the cluster's DNS would lead here: the pod's name under its headless service, and services that select it."""
        found = []
        domain = f"{meta['namespace']}.svc"
        for service in self.api.all("Service"):
            if not selects(service["spec"]["selector"], meta["labels"]):
                continue
            base = service["metadata"]["name"]
            if base == subdomain:
                base = f"{meta['name']}.{subdomain}"
                assert service["spec"]["publishNotReadyAddresses"], "it could not be found before it is ready"
            found += [f"{base}.{domain}.cluster.local", f"{base}.{domain}"]
        return found

    def environment(self, pod: dict, main: dict) -> dict[str, str]:
        namespace = pod["metadata"]["namespace"]
        found = {"KUBERNETES_SERVICE_HOST": self.gateway, "KUBERNETES_SERVICE_PORT": str(self.api.port)}
        if pod["spec"].get("enableServiceLinks", True):
            for service in self.api.all("Service"):
                if service["spec"].get("clusterIP") != "None":
                    prefix = service["metadata"]["name"].upper().replace("-", "_")
                    found[f"{prefix}_SERVICE_HOST"] = "10.0.0.1"
                    found[f"{prefix}_PORT"] = "tcp://10.0.0.1:7401"
        for item in main.get("env", []):
            if "valueFrom" in item:
                place = item["valueFrom"]["fieldRef"]["fieldPath"]
                found[item["name"]] = {"metadata.name": pod["metadata"]["name"], "metadata.namespace": namespace}[place]
            else:
                found[item["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), item["value"])
        return found

    def mounts(self, pod: dict, main: dict):
        namespace, spec = pod["metadata"]["namespace"], pod["spec"]
        group = spec["securityContext"].get("fsGroup", 0)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for mount in main.get("volumeMounts", []):
            volume, target = volumes[mount["name"]], mount["mountPath"]
            read_only = ":ro" if mount.get("readOnly") else ""
            if "claim" in volume:
                # A file system's root: root's, with the pod's group.
                path = self.directory / "claims" / volume["claim"]
                if not path.exists():
                    path.mkdir(parents=True)
                    (path / "lost+found").mkdir(mode=0o700)
                    os.chown(path, 0, group)
                    path.chmod(0o2775)
                yield ["--volume", f"{path}:{target}{read_only}"]
            elif "emptyDir" in volume:
                if size := volume["emptyDir"].get("sizeLimit"):
                    yield ["--tmpfs", f"{target}:rw,mode=1777,size={bytes_of(size)}"]
                else:
                    path = self.directory / "empty" / f"{pod['metadata']['name']}-{volume['name']}-{uuid.uuid4().hex}"
                    path.mkdir(parents=True)
                    os.chown(path, 0, group)
                    path.chmod(0o2777)
                    yield ["--volume", f"{path}:{target}"]
            elif "configMap" in volume:
                data = self.api.get("ConfigMap", volume["configMap"]["name"], namespace)["data"]
                files = {key: value.encode() for key, value in data.items()}
                path = self.projected(pod, volume["name"], files, 0o644, group)
                yield ["--volume", f"{path}:{target}:ro"]
            elif "secret" in volume:
                item = self.api.get("Secret", volume["secret"]["secretName"], namespace)
                assert item, f"the Secret {volume['secret']['secretName']} is missing: the pod would not start"
                files = {key: base64.b64decode(value) for key, value in item["data"].items()}
                if picked := volume["secret"].get("items"):
                    files = {entry["path"]: files[entry["key"]] for entry in picked}
                path = self.projected(pod, volume["name"], files, volume["secret"].get("defaultMode", 0o644), group)
                yield ["--volume", f"{path}:{target}:ro"]
        if spec.get("automountServiceAccountToken", True):
            account = spec["serviceAccountName"]
            assert self.api.get("ServiceAccount", account, namespace)
            files = {"token": self.api.token(namespace, account).encode(), "ca.crt": self.api.ca, "namespace": namespace.encode()}
            yield ["--volume", f"{self.projected(pod, 'account', files, 0o644, group)}:/{ACCOUNT_DIR}:ro"]

    def projected(self, pod: dict, volume: str, files: dict[str, bytes], mode: int, group: int) -> Path:
        """Files as a node shows them: links into a directory that is exchanged as a whole."""
        path = self.directory / "volumes" / pod["metadata"]["name"] / volume
        shutil.rmtree(path, ignore_errors=True)
        inside = path / "..2026_11_21"
        inside.mkdir(parents=True)
        for name, data in files.items():
            file = inside / name
            file.write_bytes(data)
            os.chown(file, 0, group)
            file.chmod(mode | (0o040 if group else 0))
            (path / name).symlink_to(f"..data/{name}")
        (path / "..data").symlink_to(inside.name)
        return path

    def exchange_secret(self, pod: str, volume: str, files: dict[str, bytes], group: int):
        """What a node does some time after a Secret changed, under a running pod."""
        path = self.directory / "volumes" / pod / volume
        inside = path / f"..{uuid.uuid4().hex}"
        inside.mkdir()
        mode = (path / "..data" / next(iter(files))).stat().st_mode & 0o777
        for name, data in files.items():
            (inside / name).write_bytes(data)
            os.chown(inside / name, 0, group)
            (inside / name).chmod(mode)
        (path / "..fresh").symlink_to(inside.name)
        (path / "..fresh").rename(path / "..data")

    # ---- probes

    def address(self, name: str) -> str:
        return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container(name)).strip()

    def probe(self, item: dict, name: str, which: str) -> tuple[bool, str]:
        from urllib.error import HTTPError
        from urllib.request import urlopen

        (main,) = item["spec"]["template"]["spec"]["containers"]
        probe = main[which]
        ports = {port["name"]: port["containerPort"] for port in main["ports"]}
        http = probe["httpGet"]
        # Nodes do not verify the certificates of pods.
        context = ssl._create_unverified_context() if http.get("scheme") == "HTTPS" else None
        url = f"{http.get('scheme', 'HTTP').lower()}://{self.address(name)}:{ports[http['port']]}{http['path']}"
        try:
            with urlopen(url, timeout=probe["timeoutSeconds"], context=context) as answer:
                return True, answer.read().decode().strip()
        except HTTPError as error:
            return False, error.read().decode().strip()
        except OSError as error:
            return False, str(error)

    def wait(self, item: dict, name: str, which: str, tries: int):
        (main,) = item["spec"]["template"]["spec"]["containers"]
        said = ""
        for _ in range(tries * 5):
            good, said = self.probe(item, name, which)
            if good:
                return
            state = docker("inspect", "--format", "{{.State.Running}}", self.container(name)).strip()
            if state != "true":
                raise RuntimeError(f"{name} ended: {docker('logs', '--tail', 30, self.container(name), check=False)}")
            time.sleep(main[which].get("periodSeconds", 10) / 5)
        raise RuntimeError(f"{name}: {which}: {said}: {docker('logs', '--tail', 30, self.container(name), check=False)}")

    def wait_started(self, item: dict, name: str):
        self.wait(item, name, "startupProbe", 12)

    def wait_ready(self, item: dict, name: str):
        self.wait(item, name, "readinessProbe", 12)

    # ---- people

    def exec(self, pod: str, *command, check: bool = True) -> str:
        """kubectl exec."""
        return docker("exec", self.container(pod), *command, check=check)

    def kubectl(self, line: str, check: bool = True) -> str:
        """A line of the notes, as somebody would paste it: `kubectl -n NAMESPACE exec POD -- COMMAND…`."""
        words = re.fullmatch(r"\s*kubectl -n \S+ exec (\S+) -- (.*)", line)
        return self.exec(words[1], *words[2].split(), check=check)
