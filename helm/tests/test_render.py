"""Every accepted values file: renders, lints, and gives objects that the oldest and the newest Kubernetes claimed accept."""

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from chart import CHART, NAME, NAMESPACE, NEWEST, OLDEST, accepted, refused, render

# Kinds of operators, whose schemas Kubernetes does not have: what may be in their spec, from their own API documents.
FOREIGN = {
    "Certificate": {"secretName", "issuerRef", "duration", "renewBefore", "privateKey", "usages", "dnsNames", "ipAddresses"},
    "ServiceMonitor": {"selector", "namespaceSelector", "endpoints"},
    "PrometheusRule": {"groups"},
}
ACCEPTED = accepted()


def test_there_are_twenty_values_files():
    assert len(ACCEPTED) >= 20


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects_are_those_of_kubernetes(name, version):
    for item in render(ACCEPTED[name]):
        if item["kind"] in FOREIGN:
            assert set(item["spec"]) <= FOREIGN[item["kind"]], item["metadata"]["name"]
        else:
            assert kubernetes_validate.validate(item, version, strict=True) == version


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_lint_finds_nothing(name, version):
    report = helm.lint(CHART, ACCEPTED[name], strict=True, namespace=NAMESPACE, kube_version=f"v{version}.0")
    found = [message for message in report["messages"] if message["severity"] >= 2]
    assert not found and not report["errors"], report


def test_a_field_that_is_misspelt_would_be_noticed():
    item = render().one("StatefulSet")
    item["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(item, OLDEST, strict=True)


def test_lint_would_find_something(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: x\nversion: nonsense\n")
    report = helm.lint(tmp_path, {}, strict=True)
    assert report["errors"]


def test_chart_claims_what_is_tested():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert kubernetes_validate.latest_version().startswith(f"{NEWEST}."), "there are newer schemas: claim them"


def test_the_chart_can_be_packaged(tmp_path):
    path = helm.package(CHART, destination=tmp_path)
    with helm.Chart.load(path) as chart:
        assert chart.render({}, name=NAME, namespace=NAMESPACE)
        assert any(file["name"] == "README.md" for file in chart.files)


@pytest.mark.parametrize("name", refused())
def test_wrong_values_are_refused_with_a_sentence(name):
    values, words = refused()[name]
    with pytest.raises(helm.HelmError) as error:
        render(values)
    assert words in str(error.value)
