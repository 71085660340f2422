"""Upgrades: what changes the pods and what must not, and that nothing immutable is touched."""

import pytest

from chart import accepted, is_hook, render
from immutable import changes

# Files whose values the README says cannot be changed on a release that exists.
NEVER = {"names", "long-names", "disks", "one-for-a-trial", "three-with-tls"}
ACCEPTED = accepted()
CHANGEABLE = {name: values for name, values in ACCEPTED.items() if name not in NEVER}
BASE = render()


def template(values=None, **more):
    return render(values, **more).one("StatefulSet")["spec"]["template"]


def checksum(values=None):
    return template(values)["metadata"]["annotations"]["checksum/config"]


@pytest.mark.parametrize("name", CHANGEABLE)
def test_an_upgrade_touches_nothing_immutable(name):
    """From the defaults to each file, and back: nothing that stays is changed where it cannot be."""
    there = {(item["kind"], item["metadata"]["name"]): item for item in BASE if not is_hook(item)}
    for item in render(CHANGEABLE[name], is_upgrade=True):
        old = there.get((item["kind"], item["metadata"]["name"]))
        if old:
            assert not changes(old, item)
            assert not changes(item, old)


def test_hooks_are_made_anew():
    for item in BASE:
        if is_hook(item):
            assert "before-hook-creation" in item["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


@pytest.mark.parametrize("values", [{"nameOverride": "x"}, {"persistence": {"size": "11Gi"}}, {"persistence": {"storageClass": "x"}}])
def test_what_cannot_be_changed_would_be_noticed(values):
    old, new = BASE.one("StatefulSet"), render(values).one("StatefulSet")
    assert changes(old, new) or old["metadata"]["name"] != new["metadata"]["name"]


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"threads": 2}},
        {"config": {"raft": {"tick": "60ms"}}},
        {"config": {"limits": {"nodes_max": 5}}},
        {"config": {"session": {"ttl_min": "1s"}}},
        {"config": {"log": {"level": "debug"}}},
        {"clusterName": "other"},
        {"tls": {"mode": "disabled"}},
        {"tls": {"http": True}},
        {"tls": {"reloadEvery": "20s"}},
        {"auth": {"mode": "required"}},
        {"auth": {"tokens": {"a": "0123456789abcdef"}}},
        {"merge": {"configMap": {"data": {"conclaved.toml": "x = 1"}}}},
    ],
    ids=str,
)
def test_a_change_of_configuration_changes_the_checksum(values):
    assert checksum(values) != checksum()


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 5, "initialReplicas": 3},
        {"replicas": 1, "initialReplicas": 3},
        {"service": {"port": 7000}},
        {"networkPolicy": {"enabled": False}},
        {"metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}},
        {"podDisruptionBudget": {"enabled": False}},
        {"tls": {"extraNames": ["x"], "selfMade": {"days": 9}}},
        {"tests": {"enabled": False}},
    ],
    ids=str,
)
def test_what_does_not_concern_the_servers_does_not_restart_them(values):
    assert template(values) == template()


def test_other_tokens_do_not_restart_the_servers():
    assert template({"auth": {"tokens": {"a": "0123456789abcdef"}}}) == template({"auth": {"tokens": {"b": "fedcba9876543210"}}})


def test_the_chart_version_does_not_restart_the_servers():
    assert "helm.sh/chart" not in template()["metadata"]["labels"]
    claims = BASE.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert set(claims[0]["metadata"]["labels"]) == {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}


def test_common_labels_can_be_changed():
    old, new = BASE.one("StatefulSet"), render({"commonLabels": {"team": "x"}, "commonAnnotations": {"a": "b"}}).one("StatefulSet")
    assert not changes(old, new)
