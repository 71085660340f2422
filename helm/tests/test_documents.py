"""What people read, and what machines read besides Kubernetes: README, notes, alerts, policies."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from chart import CHART, HELM, REPOSITORY, accepted, notes, render

README = (CHART / "README.md").read_text()
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")


def test_the_table_of_values_is_fresh():
    subprocess.run([sys.executable, "-B", HELM / "values_table.py", "--check"], check=True)


def test_a_value_without_a_description_is_noticed():
    sys.path.insert(0, str(HELM))
    import values_table

    with pytest.raises(SystemExit, match="image.fresh has no description"):
        values_table.rows("image:\n  # -- A.\n  tag: x\n  fresh: y\n")


def test_ten_lines_are_ten_lines_and_in_the_readme():
    text = (CHART / "three-with-tls.yaml").read_text()
    assert len(text.splitlines()) <= 10
    assert text in README
    objects = render(yaml.safe_load(text))
    assert objects.one("StatefulSet")["spec"]["replicas"] == 3
    assert "tls.crt" in objects.one("ConfigMap")["data"]["conclaved.toml"]


def test_the_readme_says_what_was_not_tested():
    assert "No live Kubernetes was part of its tests" in README


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def walk(value, shape, path):
        if "$ref" in shape:
            shape = schema["definitions"][shape["$ref"].rsplit("/", 1)[1]]
        if "properties" not in shape:
            return
        assert shape.get("additionalProperties") is False, path
        for key, inside in value.items():
            assert key in shape["properties"], f"{path}.{key}"
            if isinstance(inside, dict):
                walk(inside, shape["properties"][key], f"{path}.{key}")

    walk(values, schema, "values")
    assert set(schema["properties"]) - {"global"} == set(values)


def test_names_in_the_readme_for_merge_are_those_there_are():
    names = json.loads((CHART / "values.schema.json").read_text())["properties"]["merge"]["properties"]
    listed = README.split("\nNames: ")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(names)


def test_notes_have_the_next_command():
    text = notes()
    assert "helm test -n prod demo" in text
    assert "kubectl -n prod exec demo-conclave-0 -- /bin/conclave cluster status" in text


def test_notes_of_a_grown_cluster_say_how_to_add_each():
    text = notes({"replicas": 5, "initialReplicas": 3})
    for server in (4, 5):
        assert f"cluster add-learner {server} demo-conclave-{server - 1}.demo-conclave-headless.prod.svc.cluster.local:7402" in text
        assert f"cluster promote {server}" in text
    assert "add-learner 3 " not in text and "add-learner" not in notes()


def test_notes_of_a_shrunk_cluster_say_what_to_remove():
    text = notes({"replicas": 1, "initialReplicas": 3})
    assert "cluster remove 2" in text and "cluster remove 3" in text and "cluster remove 1" not in text


@pytest.mark.parametrize("name", accepted())
def test_notes_have_no_traces_of_templates(name):
    text = notes(accepted()[name])
    assert "<no value>" not in text and "%!" not in text and "{{" not in text


# ---- alerts


def rules() -> dict:
    return render({"metrics": {"prometheusRule": {"enabled": True}}}).one("PrometheusRule")["spec"]


def metrics() -> set[str]:
    """Names as Prometheus sees them, from the source: counters end in _total, histograms in _count and so on."""
    text = (REPOSITORY / "server/src/metrics.rs").read_text()
    names = set(re.findall(r'(?:gauge|counter|spread)\(\s*to,\s*"(\w+)"', text))
    names |= set(re.findall(r'(?:encode_descriptor|register)\(\s*"(\w+)"', text))
    names |= set(re.findall(r'labelled\(\s*to,\s*\(\s*"(\w+)"', text))
    assert len(names) > 40, names
    return {f"conclave_{name}{end}" for name in names for end in ("", "_total", "_sum", "_count", "_bucket")}


def test_alerts_use_metrics_that_exist():
    known = metrics()
    for rule in rules()["groups"][0]["rules"]:
        used = re.findall(r"\bconclave_\w+", re.sub(r'"[^"]*"', "", rule["expr"]))
        assert used and set(used) <= known, rule["alert"]
        assert rule["annotations"]["runbook"].endswith(".") and rule["annotations"]["summary"].endswith(".")
        assert set(re.findall(r"conclave_\w+", rule["annotations"]["runbook"])) <= known


def test_without_tls_no_alert_waits_for_certificates():
    plain = render({"tls": {"mode": "disabled"}, "metrics": {"prometheusRule": {"enabled": True}}}).one("PrometheusRule")
    assert "tls" not in str(plain) and "tls" in str(rules())


def test_alerts_use_limits_that_exist():
    text = (REPOSITORY / "server/src/metrics.rs").read_text()
    limits = re.findall(r'limit=\\?"(\w+)\\?"', str(rules()))
    assert len(set(limits)) == 5
    for limit in limits:
        assert f'("{limit}",' in text


def promtool(*args, cwd):
    assert PROMTOOL, "promtool is missing; scripts/test-chart.sh fetches it"
    run = subprocess.run([PROMTOOL, *args], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_alerts_are_understood_by_prometheus(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    said = promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    assert f"{len(rules()['groups'][0]['rules'])} rules found" in said


ME = 'namespace="prod",service="demo-conclave-headless"'


def series(name, values, pod="demo-conclave-0", **labels):
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return {"series": f'{name}{{{ME},pod="{pod}"{more}}}', "values": values}


# What each alert is made of: series that must raise it after so long, and series that must not.
CASES = {
    "ConclaveNoLeader": ("2m", [series("conclave_has_leader", "0x20", f"demo-conclave-{n}") for n in range(3)],
                         [series("conclave_has_leader", "0x20"), series("conclave_has_leader", "1x20", "demo-conclave-1")]),
    "ConclaveServerWithoutLeader": ("4m", [series("conclave_has_leader", "0x20")], [series("conclave_has_leader", "1x20")]),
    "ConclaveServersMissing": ("8m", [series("conclave_has_leader", "1x40"), series("conclave_members", "3x40")],
                               [series("conclave_has_leader", "1x40"), series("conclave_members", "1x40")]),
    "ConclaveDiverged": ("1m", [series("conclave_diverged", "1x10")], [series("conclave_diverged", "0x10")]),
    "ConclaveFollowerBehind": ("12m", [series("conclave_follower_behind_entries", "6000x60", member="2")],
                               [series("conclave_follower_behind_entries", "4000x60", member="2")]),
    "ConclaveKeepAlivesUnconfirmed": ("8m", [series("conclave_keep_alives_unconfirmed_total", "0+3x40")],
                                      [series("conclave_keep_alives_unconfirmed_total", "7x40")]),
    "ConclaveOverloaded": ("12m", [series("conclave_proposals_total", "0+3x60", result="overloaded")],
                           [series("conclave_proposals_total", "0+3x60", result="applied")]),
    "ConclaveCertificateEnds": ("62m", [series("conclave_tls_certificate_expiry_seconds", "1728000x260", use="clients")],
                                [series("conclave_tls_certificate_expiry_seconds", "2592000x260", use="clients")]),
    "ConclaveCertificateRefused": ("4m", [series("conclave_tls_reload_failures_total", "0x4 1x20")],
                                   [series("conclave_tls_reload_failures_total", "1x20")]),
    "ConclaveSlowReader": ("12m", [series("conclave_outbox_bytes_largest", "900x60"), series("conclave_limit", "1000x60", limit="outbox_bytes_max")],
                           [series("conclave_outbox_bytes_largest", "700x60"), series("conclave_limit", "1000x60", limit="outbox_bytes_max")]),
    **{
        alert: ("12m", [series(metric, "900x60"), series("conclave_limit", "1000x60", limit=limit)],
                [series(metric, "700x60"), series("conclave_limit", "1000x60", limit=limit)])
        for alert, metric, limit in [
            ("ConclaveStoreBytesNearLimit", "conclave_store_bytes", "store_bytes_max"),
            ("ConclaveNodesNearLimit", "conclave_nodes", "nodes_max"),
            ("ConclaveSessionsNearLimit", "conclave_sessions", "sessions_max"),
            ("ConclaveConnectionsNearLimit", "conclave_connections", "connections_max"),
        ]
    },
}


def test_every_alert_has_a_case():
    assert {rule["alert"] for rule in rules()["groups"][0]["rules"]} == set(CASES)


@pytest.mark.parametrize("alert", CASES)
def test_alerts_are_raised_when_they_should_be(alert, tmp_path):
    """By Prometheus' own engine: raised by bad figures after a while, and not by good ones."""
    after, bad, good = CASES[alert]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    query = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'

    def case(input_series, raised):
        return {
            "interval": "15s",
            "input_series": input_series,
            "promql_expr_test": [
                {"expr": f"count({query}) > bool 0 or vector(0)", "eval_time": after, "exp_samples": [{"value": int(raised)}]}
            ],
        }

    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [case(bad, True), case(good, False)]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yaml", cwd=tmp_path)


# ---- policies

# Checks of checkov that do not hold here, each with its reason.
POLICY_EXCEPTIONS = {
    "CKV_K8S_43": "digests: there is no registry whose digests the defaults could name; image.digest is there for it",
    "CKV_K8S_15": "pull policy: the default tag is a version, which does not change",
    "CKV_K8S_11": "CPU limits: throttling makes a leader miss its heartbeats; requests reserve what it needs",
    "CKV_K8S_38": "a token is mounted into the hook that writes the Secret, nowhere else",
    "CKV_K8S_8": "liveness: the hook and the tests end by themselves",
    "CKV_K8S_9": "readiness: likewise",
    "CKV2_K8S_6": "network policies: of the hook and the tests, which listen nowhere",
    "CKV_K8S_35": "files, not variables, is what the chart uses",
}


def test_policies_of_checkov_hold(tmp_path):
    checkov = shutil.which("checkov", path=os.path.dirname(sys.executable))
    if not checkov:
        pytest.skip("checkov is not installed")
    for item in render({"auth": {"tokens": {"a": "0123456789abcdef"}}}):
        path = tmp_path / f"{item['kind']}-{item['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(item))
    run = subprocess.run(
        [checkov, "-d", tmp_path, "--framework", "kubernetes", "--output", "json", "--compact", "--quiet", "--skip-download"],
        capture_output=True, text=True, env={**os.environ, "LOG_LEVEL": "ERROR"}, timeout=300,
    )
    said = json.loads(run.stdout)
    assert said["summary"]["passed"] > 100
    failed = {}
    for check in said["results"]["failed_checks"]:
        failed.setdefault(check["check_id"], []).append(f"{check['check_name']}: {check['resource']}")
    assert not {key: value for key, value in failed.items() if key not in POLICY_EXCEPTIONS}
    # The server itself has probes, and no token.
    for check in ("CKV_K8S_38", "CKV_K8S_8", "CKV_K8S_9"):
        assert not [line for line in failed.get(check, []) if "StatefulSet" in line]
