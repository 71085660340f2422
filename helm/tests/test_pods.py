"""A stranger follows the chart's README with the rendered pods in containers: Helm's own code installs, upgrades, tests and
uninstalls; what it sends to the stand-in for the API server is really run, by pods.py.

Needs Docker and the image (`make image`). One story in several tests, in this order.
"""

import base64
import json
import os
import re
import ssl
import subprocess
import threading
import time

import helm_python as helm
import pytest
import yaml

from chart import CHART, NAME, NAMESPACE, TESTS
from pods import Pods, docker, there

IMAGE = os.environ.get("CONCLAVE_IMAGE", "conclave:dev")
TIMEOUT = 180
REPOSITORY, _, TAG = IMAGE.rpartition(":")
VALUES = {**yaml.safe_load((CHART / "three-with-tls.yaml").read_text()), "image": {"repository": REPOSITORY, "tag": TAG}}
DEBUG = {"log": {"level": "debug,h2=info"}}

if not there(IMAGE):
    why = f"there is no Docker or no image {IMAGE}: run make image first"
    assert os.environ.get("CONCLAVE_CHART_CONTAINERS") != "required", why
    pytestmark = pytest.mark.skip(reason=why)


class Story:
    """A release, and its pods."""

    def __init__(self, pods: Pods):
        self.pods = pods
        self.helm = helm.Config(kubeconfig_content=pods.api.kubeconfig(), namespace=NAMESPACE, storage_driver="memory", qps=1000, burst_limit=1000)

    def stateful(self) -> dict:
        return self.pods.api.get("StatefulSet", "demo-conclave", NAMESPACE)

    def upgrade(self, **values) -> dict:
        return self.helm.upgrade(CHART, NAME, {**VALUES, **values}, namespace=NAMESPACE, wait="watcher", timeout=TIMEOUT)

    def status(self, pod: int = 0) -> list[dict]:
        return json.loads(self.pods.exec(f"demo-conclave-{pod}", "/bin/conclave", "--output", "json", "cluster", "status"))

    def leader(self) -> int:
        """The leader's pod."""
        (leader,) = {server["leader"] for server in self.status() if server["leader"]}
        return leader - 1

    def client(self, *words) -> subprocess.CompletedProcess:
        """A client from outside the release: it knows the CA, and has tokens, but no certificate."""
        tokens = self.pods.directory / "tokens"
        if not tokens.exists():
            tokens.mkdir()
            (tokens / "right").write_text(TOKEN + "\n")
            (tokens / "wrong").write_text(TOKEN[::-1] + "\n")
            (tokens / "ca.crt").write_bytes(base64.b64decode(self.pods.api.get("Secret", "demo-conclave-tls", NAMESPACE)["data"]["ca.crt"]))
        endpoint = "https://demo-conclave.prod.svc.cluster.local:7401"
        return subprocess.run(
            ["docker", "run", "--rm", "--network", self.pods.network, "--user", "65532:65532", "--volume", f"{tokens}:/tokens:ro", "--entrypoint",
             "/bin/conclave", IMAGE, "--endpoints", endpoint, "--ca", "/tokens/ca.crt", "--timeout", "10s", *words],
            capture_output=True, text=True, timeout=60,
        )

    def conclave(self, *words, pod: int = 0, check: bool = True) -> str:
        return self.pods.exec(f"demo-conclave-{pod}", "/bin/conclave", *words, check=check)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    with Pods(tmp_path_factory.mktemp("node")) as pods:
        story = Story(pods)
        yield story
        if pods.api.failures:
            print("\n".join(pods.api.failures))
        story.helm.close()


class Writer:
    """A client in a container of its own, which goes on while servers come and go. Every write must succeed."""

    def __init__(self, story: Story):
        self.story, self.failures, self.done, self.stop = story, [], 0, threading.Event()
        files = story.pods.api.get("Secret", "demo-conclave-tls", NAMESPACE)["data"]
        secret = story.pods.projected({"metadata": {"name": "writer"}}, "tls", {key: base64.b64decode(value) for key, value in files.items()}, 0o440, 65532)
        env = story.pods.environment({"metadata": {"name": "w", "namespace": NAMESPACE}, "spec": {"enableServiceLinks": False}},
                                     story.stateful()["spec"]["template"]["spec"]["containers"][0])
        self.name = f"{story.pods.network}-writer"
        args = [item for key in ("CONCLAVE_ENDPOINTS", "CONCLAVE_CA", "CONCLAVE_CERT", "CONCLAVE_KEY") for item in ("--env", f"{key}={env[key]}")]
        # A container that stays: `lock` holds while its command runs.
        docker("run", "--detach", "--name", self.name, "--network", story.pods.network, *args, "--user", "65532:65532",
               "--volume", f"{secret}:/etc/conclave/tls:ro", "--entrypoint", "/bin/conclave", IMAGE,
               "watch", "/nothing-is-here")
        self.thread = threading.Thread(target=self.work)

    def __enter__(self):
        self.thread.start()
        return self

    def work(self):
        while not self.stop.is_set():
            began = time.time()
            said = subprocess.run(
                ["docker", "exec", self.name, "/bin/conclave", "--timeout", "20s", "put", "/jobs/counter", str(self.done)],
                capture_output=True, text=True, timeout=60,
            )
            if said.returncode:
                self.failures.append(f"{time.strftime('%X', time.gmtime(began))} to {time.strftime('%X', time.gmtime())}: {said.returncode}: {said.stderr.strip() or said.stdout.strip()}")
            else:
                self.done += 1

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        docker("rm", "-f", self.name, check=False)


def assert_healthy_and_encrypted(story: Story, servers: int = 3):
    status = story.status()
    assert len(status) == 3 or servers != 3
    assert all(server["error"] is None and server["tls"] and server["peers_tls"] for server in status), status
    assert len({server["leader"] for server in status}) == 1
    table = story.pods.kubectl("kubectl -n prod exec demo-conclave-0 -- /bin/conclave cluster status")
    assert "TLS" in table
    story.conclave("cluster", "health")
    return table


def test_installation_makes_certificates_and_a_cluster(story):
    released = story.helm.install(CHART, NAME, VALUES, namespace=NAMESPACE, wait="watcher", timeout=TIMEOUT)
    assert released["status"] == "deployed" and not story.pods.api.failures
    # The hook's container wrote the Secrets, with the rights of its role.
    for name, keys in (("demo-conclave-tls", {"tls.crt", "tls.key", "ca.crt"}), ("demo-conclave-tls-ca", None)):
        secret = story.pods.api.get("Secret", name, NAMESPACE)
        assert secret and (keys is None or set(secret["data"]) == keys)
    # And its pods were ready by their own probes.
    item = story.stateful()
    for ordinal in range(3):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert story.pods.probe(item, f"demo-conclave-{ordinal}", probe)[0]


def test_the_line_of_the_notes_says_healthy_and_encrypted(story):
    notes = story.helm.get_all(NAME)["summary"]["notes"]
    line = next(line for line in notes.splitlines() if line.endswith("cluster status"))
    assert "demo-conclave-0" in story.pods.kubectl(line)
    print(assert_healthy_and_encrypted(story))
    lock = next(line for line in notes.splitlines() if " lock demo " in line)
    assert "/locks/demo" in story.pods.kubectl(lock)


def test_helm_test_passes(story):
    try:
        story.helm.test(NAME, timeout=TIMEOUT)
    except helm.HelmError as error:
        raise AssertionError(f"{error}: {story.pods.api.failures}") from None
    verify, status = (story.pods.api.logs[f"demo-conclave-test-{name}"] for name in ("verify", "status"))
    print(verify)
    assert "token" in verify and "demo-conclave-2" in status


def test_without_tls_or_with_another_ca_nobody_comes_in(story):
    endpoint = "demo-conclave-0.demo-conclave-headless.prod.svc.cluster.local:7401"
    plain = subprocess.run(["docker", "run", "--rm", "--network", story.pods.network, "--entrypoint", "/bin/conclave", IMAGE,
                            "--endpoints", f"http://{endpoint}", "--timeout", "3s", "get", "/x"], capture_output=True, text=True, timeout=60)
    assert plain.returncode not in (0, 66), "plain text was answered"
    other = story.pods.directory / "other"
    other.mkdir()
    other.chmod(0o777)
    docker("run", "--rm", "--user", "65532:65532", "--volume", f"{other}:/other", "--entrypoint", "/bin/conclave", IMAGE, "cert", "--dir", "/other", "--name", "x")
    stranger = subprocess.run(["docker", "run", "--rm", "--user", "65532:65532", "--network", story.pods.network, "--volume", f"{other}:/other:ro", "--entrypoint", "/bin/conclave", IMAGE,
                               "--endpoints", f"https://{endpoint}", "--ca", "/other/ca.crt", "--timeout", "3s", "get", "/x"], capture_output=True, text=True, timeout=60)
    assert stranger.returncode not in (0, 66), "a server of another CA was believed"
    print(plain.stderr, stranger.stderr)


def test_a_rolling_restart_interrupts_nobody(story):
    story.conclave("put", "--parents", "/jobs/counter", "0", check=False)
    before = {pod: docker("inspect", "--format", "{{.Id}}", story.pods.container(pod)) for pod in story.pods.servers("demo-conclave")}
    story.pods.exits.clear()
    with Writer(story) as writer:
        story.upgrade(config=DEBUG)
        time.sleep(1)
    after = {pod: docker("inspect", "--format", "{{.Id}}", story.pods.container(pod)) for pod in story.pods.servers("demo-conclave")}
    assert set(before) == set(after) and all(before[pod] != after[pod] for pod in before)
    print("\n".join([*writer.failures, *story.pods.said]))
    assert not writer.failures and writer.done > 10, (writer.done, writer.failures)
    # Highest first, one by one; each ended by itself, and within the time that the grace period was chosen for.
    stops = [line.split()[1].rstrip(":") for line in story.pods.said if line.startswith("stop ")]
    assert stops[-3:] == ["demo-conclave-2", "demo-conclave-1", "demo-conclave-0"]
    for pod, (code, took, log) in story.pods.exits.items():
        assert code == 0 and took < 15, (pod, code, took, log)
    assert any("leadership was handed over" in log for _, _, log in story.pods.exits.values())
    print(f"{writer.done} writes, none failed; stops took", {pod: round(took, 1) for pod, (_, took, _) in story.pods.exits.items()})
    assert_healthy_and_encrypted(story)


def served(story, ordinal: int) -> str:
    """The certificate that a server shows."""
    return ssl.get_server_certificate((story.pods.address(f"demo-conclave-{ordinal}"), 7401), timeout=10)


def containers(story) -> dict[str, str]:
    return {pod: docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", story.pods.container(pod)) for pod in story.pods.servers("demo-conclave")}


def test_renewing_the_certificate_as_the_readme_says_restarts_nobody(story):
    old, before = served(story, 0), containers(story)
    ca = story.pods.api.get("Secret", "demo-conclave-tls", NAMESPACE)["data"]["ca.crt"]
    # kubectl delete secret FULLNAME-tls, then helm upgrade with the same values.
    story.pods.api.delete("Secret", NAMESPACE, "demo-conclave-tls")
    story.upgrade(config=DEBUG)
    secret = story.pods.api.get("Secret", "demo-conclave-tls", NAMESPACE)["data"]
    assert secret["ca.crt"] == ca, "the CA is the same"
    for pod in before:
        story.pods.exchange_secret(pod, "tls", {key: base64.b64decode(value) for key, value in secret.items()}, 65532)
    deadline = time.monotonic() + 30
    while {served(story, ordinal) for ordinal in range(3)} & {old} and time.monotonic() < deadline:
        time.sleep(1)
    assert old not in {served(story, ordinal) for ordinal in range(3)}, "an old certificate is still shown"
    assert containers(story) == before
    assert_healthy_and_encrypted(story)


def test_a_pod_that_is_lost_comes_back_with_its_disk(story):
    story.conclave("put", "/kept", "before the loss")
    lost = story.leader()
    with Writer(story) as writer:
        story.pods.lose(story.stateful(), f"demo-conclave-{lost}")
        story.pods.wait_ready(story.stateful(), f"demo-conclave-{lost}")
        time.sleep(1)
    # A write that was under way when its server was killed may honestly be unknown (79); nothing else may happen to any.
    assert writer.done > 0 and len(writer.failures) <= 1 and all(": 79: " in failure for failure in writer.failures), writer.failures
    assert "before the loss" in story.conclave("get", "/kept", pod=lost)
    assert_healthy_and_encrypted(story)


def test_a_pod_alone_lives_and_waits(story):
    """Liveness does not depend on a majority, and the lone server is told apart as not ready."""
    item = story.stateful()
    for ordinal in (1, 2):
        docker("stop", "--time", 30, story.pods.container(f"demo-conclave-{ordinal}"))
    deadline = time.monotonic() + 20
    while story.pods.probe(item, "demo-conclave-0", "readinessProbe")[0] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not story.pods.probe(item, "demo-conclave-0", "readinessProbe")[0]
    for _ in range(10):
        assert story.pods.probe(item, "demo-conclave-0", "livenessProbe")[0]
        time.sleep(0.5)
    for ordinal in (1, 2):
        docker("start", story.pods.container(f"demo-conclave-{ordinal}"))
    for ordinal in range(3):
        story.pods.wait_ready(item, f"demo-conclave-{ordinal}")


def test_helm_test_notices_a_cluster_that_is_not_well(story):
    docker("stop", "--time", 30, story.pods.container("demo-conclave-2"))
    with pytest.raises(helm.HelmError):
        story.helm.test(NAME, timeout=60)
    docker("start", story.pods.container("demo-conclave-2"))
    story.pods.wait_ready(story.stateful(), "demo-conclave-2")
    story.pods.api.failures.clear()


def test_growing_by_the_lines_of_the_notes(story):
    before = {pod: docker("inspect", "--format", "{{.Id}}", story.pods.container(pod)) for pod in story.pods.servers("demo-conclave")}
    released = story.upgrade(config=DEBUG, replicas=5)
    lines = [line for line in released["notes"].splitlines() if re.search("add-learner|promote", line)]
    assert len(lines) == 4
    for line in lines:
        # A learner is promoted once it has caught up; a person would try again, too.
        for _ in range(30):
            said = story.pods.kubectl(line, check=False)
            if "rror" not in said and "behind" not in said and "not " not in said:
                break
            time.sleep(1)
        print(said.strip())
    for ordinal in range(5):
        story.pods.wait_ready(story.stateful(), f"demo-conclave-{ordinal}")
    assert {len(server["members"]) for server in story.status()} == {5}
    assert all(docker("inspect", "--format", "{{.Id}}", story.pods.container(pod)) == id for pod, id in before.items()), "nobody was restarted"
    assert "before the loss" in story.conclave("get", "/kept", pod=4)


TOKEN = "0123456789abcdef0123456789abcdef"


def test_whoever_must_say_who_they_are_is_asked(story):
    story.upgrade(config=DEBUG, replicas=5, auth={"mode": "required", "tokens": {"billing": TOKEN}})
    stranger = story.client("get", "/kept")
    assert stranger.returncode == 77, (stranger.returncode, stranger.stderr)
    wrong = story.client("--token-file", "/tokens/wrong", "get", "/kept")
    assert wrong.returncode == 77, wrong.stderr
    known = story.client("--token-file", "/tokens/right", "get", "/kept")
    assert known.returncode == 0 and "before the loss" in known.stdout, known.stderr
    print(stranger.stderr, wrong.stderr)
    # The tests of the release show the servers' certificate.
    story.helm.test(NAME, timeout=TIMEOUT)
    assert TOKEN not in "".join(docker("logs", story.pods.container(f"demo-conclave-{n}"), check=False) for n in range(5))


def test_uninstalling_stops_the_servers_and_keeps_their_disks(story):
    story.pods.exits.clear()
    story.helm.uninstall(NAME, timeout=TIMEOUT)
    assert not story.pods.servers("demo-conclave")
    assert len(story.pods.exits) == 5 and all(code == 0 for code, _, _ in story.pods.exits.values()), story.pods.exits
    assert {path.name for path in (story.pods.directory / "claims").iterdir()} == {f"data-demo-conclave-{n}" for n in range(5)}
    assert story.pods.api.get("Secret", "demo-conclave-tls", NAMESPACE), "what the hook made stays"


def test_one_server_for_a_trial_needs_no_disk_and_no_certificates(tmp_path):
    values = {**yaml.safe_load((TESTS / "accepted" / "one-for-a-trial.yaml").read_text()), "image": VALUES["image"]}
    with Pods(tmp_path) as pods:
        story = Story(pods)
        try:
            story.helm.install(CHART, NAME, values, namespace=NAMESPACE, wait="watcher", timeout=60)
            story.helm.test(NAME, timeout=TIMEOUT)
        except helm.HelmError as error:
            raise AssertionError(f"{error}: {pods.api.failures}") from None
        (server,) = story.status()
        assert not server["tls"] and not pods.api.all("Secret")
        story.helm.uninstall(NAME, timeout=TIMEOUT)
        story.helm.close()
