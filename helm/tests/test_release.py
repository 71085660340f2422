"""The life of a release, by Helm's own code against the stand-in for the API server."""

import base64

import helm_python as helm
import pytest

from chart import CHART, NEWEST, OLDEST, Objects, is_hook, parse, render
from fake_api import FakeApi, done

TIMEOUT = 60


class Helm:
    """What `helm` would do. Records of releases are kept in memory: Helm writes them to Secrets in protobuf, of which the
    stand-in knows nothing."""

    def __init__(self, api):
        self.api = api
        self.config = helm.Config(kubeconfig_content=api.kubeconfig(), namespace="prod", storage_driver="memory", qps=1000, burst_limit=1000)

    def install(self, values=None, wait="watcher"):
        return self.config.install(CHART, "demo", values or {}, namespace="prod", wait=wait, timeout=TIMEOUT)

    def upgrade(self, values=None, wait="watcher"):
        return self.config.upgrade(CHART, "demo", values or {}, namespace="prod", wait=wait, timeout=TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.config.close()


@pytest.fixture
def cluster():
    with FakeApi(NEWEST) as api, Helm(api) as tool:
        yield api, tool


def names(api, *kinds):
    return {(kind, item["metadata"]["name"]) for kind in kinds for item in api.all(kind)}


OURS = ("ConfigMap", "Service", "ServiceAccount", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_life_of_a_release(version):
    with FakeApi(version) as api, Helm(api) as tool:
        live(api, tool)


def live(api, tool):
    released = tool.install()
    assert released["status"] == "deployed"
    wanted = {(item["kind"], item["metadata"]["name"]) for item in render() if not is_hook(item)}
    assert names(api, *OURS) == wanted
    # The hook ran before everything else, its rights before itself, and nothing of it stays.
    order = api.log
    job = order.index("create Job/demo-conclave-tls")
    assert {"create ServiceAccount/demo-conclave-tls", "create Role/demo-conclave-tls", "create RoleBinding/demo-conclave-tls"} <= set(order[:job])
    assert order.index("create StatefulSet/demo-conclave") > job
    assert not names(api, "Job", "Role", "RoleBinding")

    first = api.get("StatefulSet", "demo-conclave")
    assert tool.upgrade({"config": {"threads": 2}})["revision"] == 2
    second = api.get("StatefulSet", "demo-conclave")
    assert second["metadata"]["generation"] == first["metadata"]["generation"] + 1
    assert second["spec"]["template"] != first["spec"]["template"]

    tool.config.rollback("demo", version=1, timeout=TIMEOUT, wait="watcher")
    assert api.get("StatefulSet", "demo-conclave")["spec"] == first["spec"]
    assert [item["revision"] for item in tool.config.history("demo")] == [1, 2, 3]

    tested = tool.config.test("demo", timeout=TIMEOUT)
    assert {line for line in api.log if "test-" in line and "create" in line} == {
        "create Pod/demo-conclave-test-verify", "create Pod/demo-conclave-test-status",
    }
    assert tested

    tool.config.uninstall("demo", timeout=TIMEOUT)
    assert not names(api, *OURS)
    # In a real cluster the test's pods stay for their logs, too: they are hooks without hook-succeeded.
    assert not api.failures


def test_a_failing_test_fails(cluster):
    api, tool = cluster
    tool.install()
    api.run = lambda item: {"phase": "Failed"} if item["kind"] == "Pod" else done(item)
    with pytest.raises(helm.HelmError):
        tool.config.test("demo", timeout=10)


def test_a_failing_hook_stops_the_installation():
    def run(item):
        if item["kind"] == "Job":
            raise RuntimeError("no certificates today")
        return done(item)

    with FakeApi(NEWEST, run) as api, Helm(api) as tool:
        with pytest.raises(helm.HelmError):
            tool.install()
        assert not names(api, "StatefulSet", "ConfigMap")


def test_servers_that_do_not_come_up_fail_the_installation():
    def run(item):
        return {**done(item), "readyReplicas": 0, "availableReplicas": 0} if item["kind"] == "StatefulSet" else done(item)

    with FakeApi(NEWEST, run) as api, Helm(api) as tool:
        with pytest.raises(helm.HelmError):
            tool.config.install(CHART, "demo", {}, namespace="prod", wait="watcher", timeout=5)


def test_a_kubernetes_that_is_too_old_is_refused():
    with FakeApi(NEWEST) as api, Helm(api) as tool:
        api.version = "1.24"
        with pytest.raises(helm.HelmError, match="1.24"):
            tool.install()
        assert not names(api, *OURS)


def test_the_cluster_remembers_its_founders(cluster):
    """`replicas` may change; the members that an empty disk would read may not."""
    api, tool = cluster
    tool.install()
    before = api.get("ConfigMap", "demo-conclave")["data"], api.get("StatefulSet", "demo-conclave")["spec"]["template"]
    released = tool.upgrade({"replicas": 5})
    stateful = api.get("StatefulSet", "demo-conclave")
    assert stateful["spec"]["replicas"] == 5
    assert stateful["metadata"]["annotations"]["conclave/initial-replicas"] == "3"
    assert (api.get("ConfigMap", "demo-conclave")["data"], stateful["spec"]["template"]) == before, "nobody is restarted"
    assert "add-learner 4" in released["notes"] and "add-learner 3 " not in released["notes"]
    tool.upgrade({"replicas": 5, "config": {"threads": 3}})
    assert api.get("ConfigMap", "demo-conclave")["data"]["conclaved.toml"].count("client_address") == 3
    released = tool.upgrade({"replicas": 1})
    assert "cluster remove 3" in released["notes"]
    tool.config.rollback("demo", version=1, timeout=TIMEOUT, wait="watcher")
    assert api.get("ConfigMap", "demo-conclave")["data"]["conclaved.toml"].count("client_address") == 3


def test_what_cannot_change_is_refused_by_the_cluster_not_lost(cluster):
    api, tool = cluster
    tool.install()
    before = api.get("StatefulSet", "demo-conclave")
    with pytest.raises(helm.HelmError, match="immutable"):
        tool.upgrade({"persistence": {"size": "11Gi"}})
    assert api.get("StatefulSet", "demo-conclave")["spec"]["volumeClaimTemplates"] == before["spec"]["volumeClaimTemplates"]
    assert tool.upgrade()["status"] == "deployed"


def test_tokens_reach_a_secret(cluster):
    api, tool = cluster
    tool.install({"auth": {"mode": "required", "tokens": {"billing": "0123456789abcdef"}}})
    data = api.get("Secret", "demo-conclave-tokens")["data"]["tokens"]
    assert base64.b64decode(data).split() == [b"billing", b"0123456789abcdef"]


def test_tls_is_not_turned_on_one_by_one(cluster):
    """Servers with and without could not speak to each other, and the first to be replaced would never be ready."""
    api, tool = cluster
    tool.install({"tls": {"mode": "disabled"}})
    assert "create Job/demo-conclave-tls" not in api.log
    with pytest.raises(helm.HelmError, match="would turn TLS on for a running cluster"):
        tool.upgrade({"tls": {"mode": "selfMade"}})
    tool.upgrade({"tls": {"mode": "selfMade"}, "updateStrategy": {"type": "OnDelete"}})
    assert "create Job/demo-conclave-tls" in api.log
    with pytest.raises(helm.HelmError, match="would turn TLS off"):
        tool.upgrade({"tls": {"mode": "disabled"}})
    tool.upgrade({"tls": {"mode": "selfMade"}})


def test_who_makes_the_certificates_can_be_changed(cluster):
    api, tool = cluster
    tool.install()
    tool.upgrade({"tls": {"mode": "existingSecret", "existingSecret": "mine"}})
    volumes = api.get("StatefulSet", "demo-conclave")["spec"]["template"]["spec"]["volumes"]
    assert [volume["secret"]["secretName"] for volume in volumes if "secret" in volume] == ["mine"]


def test_the_release_is_what_rendering_gives():
    with FakeApi(NEWEST) as api, Helm(api) as tool:
        manifest = parse(tool.install()["manifest"])
    offline = Objects(item for item in render() if not is_hook(item))

    def key(item):
        return item["kind"], item["metadata"]["name"]

    assert sorted(manifest, key=key) == sorted(offline, key=key)
