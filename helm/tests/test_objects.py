"""What must hold between objects: of each accepted values file, and of the binary whose pods these are."""

import os
import re
import subprocess
import tomllib

import pytest

from chart import NAMESPACE, REPOSITORY, accepted, is_hook, notes, pod_templates, render, selects

ACCEPTED = accepted()
RENDERED = {name: render(values) for name, values in ACCEPTED.items()}
EACH = pytest.mark.parametrize("name", RENDERED)
CONFIG_RS = (REPOSITORY / "server/src/config.rs").read_text()


def server(objects):
    return objects.one("StatefulSet")["spec"]["template"]


def container(template, name="conclaved"):
    return next(item for item in template["spec"]["containers"] if item["name"] == name)


def configuration(objects) -> dict:
    name = server(objects)["spec"]["volumes"]
    name = next(volume["configMap"]["name"] for volume in name if volume["name"] == "config")
    return tomllib.loads(objects.one("ConfigMap", name)["data"]["conclaved.toml"])


def default_ports() -> dict[str, int]:
    """The binary's own: from `conclaved check-config` if $CONCLAVED names one, from its source otherwise."""
    if binary := os.environ.get("CONCLAVED"):
        options = ["--id=1", "--cluster=x", "--data-dir=/x", "--members=1=x:1"]
        said = subprocess.run([binary, "check-config", *options], capture_output=True, text=True, check=True).stdout
        text = tomllib.loads(said)
        return {key: int(text[key].rsplit(":", 1)[1]) for key in ("listen_client", "listen_http")}
    found = re.findall(r"(listen_client|listen_http): SocketAddr::from\(\(\[127, 0, 0, 1\], (\d+)\)\)", CONFIG_RS)
    return {key: int(port) for key, port in found}


# ---- selectors


@EACH
def test_names_are_unique(name):
    names = [(item["apiVersion"].split("/")[0], item["kind"], item["metadata"]["name"]) for item in RENDERED[name]]
    assert len(names) == len(set(names))


@EACH
def test_everything_is_in_the_release_namespace_and_labelled(name):
    extra = {item["metadata"]["name"] for item in ACCEPTED[name].get("extraObjects", [])}
    for item in RENDERED[name]:
        if item["metadata"]["name"] in extra:
            continue
        assert item["metadata"]["namespace"] == NAMESPACE
        labels = item["metadata"]["labels"]
        for key in ("name", "instance", "component", "version", "managed-by", "part-of"):
            assert labels[f"app.kubernetes.io/{key}"]
        assert all(len(value) <= 63 for value in labels.values())


@EACH
def test_selectors_match_the_servers_pods_and_no_others(name):
    objects = RENDERED[name]
    pods = {key: template["metadata"]["labels"] for key, template in pod_templates(objects).items()}
    stateful = objects.one("StatefulSet")
    servers = f"StatefulSet/{stateful['metadata']['name']}"
    selectors = [("StatefulSet", stateful["spec"]["selector"]["matchLabels"])]
    selectors += [(item["metadata"]["name"], item["spec"]["selector"]) for item in objects.of("Service")]
    selectors += [("PodDisruptionBudget", item["spec"]["selector"]["matchLabels"]) for item in objects.of("PodDisruptionBudget")]
    selectors += [("NetworkPolicy", item["spec"]["podSelector"]["matchLabels"]) for item in objects.of("NetworkPolicy")]
    assert len(selectors) >= 3
    for what, selector in selectors:
        assert [key for key, labels in pods.items() if selects(selector, labels)] == [servers], what


def test_two_releases_in_one_namespace_keep_apart():
    one, other = render(name="one"), render(name="other")
    assert not {(i["kind"], i["metadata"]["name"]) for i in one} & {(i["kind"], i["metadata"]["name"]) for i in other}
    for item in one.of("Service"):
        assert not selects(item["spec"]["selector"], server(other)["metadata"]["labels"])
    assert not selects(one.one("StatefulSet")["spec"]["selector"]["matchLabels"], server(other)["metadata"]["labels"])


@EACH
def test_the_budget_lets_one_go(name):
    for item in RENDERED[name].of("PodDisruptionBudget"):
        if name != "merge":
            assert item["spec"]["maxUnavailable"] == 1
            assert "minAvailable" not in item["spec"]


@EACH
def test_the_service_monitor_finds_one_service_and_its_port(name):
    for monitor in RENDERED[name].of("ServiceMonitor"):
        found = [s for s in RENDERED[name].of("Service") if selects(monitor["spec"]["selector"]["matchLabels"], s["metadata"]["labels"])]
        assert len(found) == 1 and found[0]["spec"]["clusterIP"] == "None"
        ports = {port["name"] for port in found[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


# ---- ports


def test_ports_are_those_the_binary_is_known_by():
    ports = default_ports()
    config = configuration(RENDERED["defaults"])
    assert ports == {"listen_client": 7401, "listen_http": 7481}
    for key, port in ports.items():
        assert config[key] == f"0.0.0.0:{port}"


@EACH
def test_ports_agree_from_configuration_to_policy(name):
    objects = RENDERED[name]
    config = configuration(objects)
    listens = {key: int(config[f"listen_{key}"].split(":")[1]) for key in ("client", "peer", "http")}
    main = container(server(objects))
    assert {port["name"]: port["containerPort"] for port in main["ports"]} == listens
    for item in objects.of("Service"):
        for port in item["spec"]["ports"]:
            assert port["targetPort"] in listens
    headless = next(item for item in objects.of("Service") if item["spec"].get("clusterIP") == "None")
    assert {port["name"]: port["port"] for port in headless["spec"]["ports"]} == listens
    for item in objects.of("NetworkPolicy"):
        rules = [port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]]
        assert set(rules) <= set(listens) and len(rules) == len(set(rules)), "one rule for each port"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[probe]["httpGet"]["port"] == "http"


@EACH
def test_the_network_policy_keeps_peers_to_themselves(name):
    objects = RENDERED[name]
    labels = server(objects)["metadata"]["labels"]
    for item in objects.of("NetworkPolicy"):
        peers = [rule for rule in item["spec"]["ingress"] if rule["ports"][0]["port"] == "peer"]
        assert len(peers) == 1
        (source,) = peers[0]["from"]
        assert list(source) == ["podSelector"], "no other namespace"
        assert selects(source["podSelector"]["matchLabels"], labels)
        # The tests must get in, whoever else may.
        clients = next(rule for rule in item["spec"]["ingress"] if rule["ports"][0]["port"] == "client")
        for pod in (template for key, template in pod_templates(objects).items() if key.startswith("Pod/")):
            assert any(
                selects(source["podSelector"].get("matchLabels", {}), pod["metadata"]["labels"])
                for source in clients["from"]
                if list(source) == ["podSelector"]
            )


def test_clients_of_a_policy_are_those_that_were_named():
    (policy,) = RENDERED["network-policy"].of("NetworkPolicy")
    clients = policy["spec"]["ingress"][0]["from"]
    assert {"podSelector": {}} not in clients and {"ipBlock": {"cidr": "10.0.0.0/8"}} in clients
    assert [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]] == ["client", "peer"], "nobody may scrape"
    assert policy["spec"]["policyTypes"] == ["Ingress"]


# ---- the server's configuration


def struct_fields(name: str) -> set[str]:
    body = re.search(rf"pub struct {name} \{{\n(.*?)\n\}}", CONFIG_RS, re.S)[1]
    return set(re.findall(r"^    pub (\w+):", body, re.M))


def test_the_schema_knows_the_sections_of_the_server_exactly():
    import json

    from chart import CHART

    config = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    for section in ("raft", "limits", "session", "log"):
        assert set(config[section]["properties"]) == struct_fields(section.capitalize()), section


@EACH
def test_the_configuration_has_only_keys_that_the_server_knows(name):
    config = configuration(RENDERED[name])
    top = struct_fields("Config")
    unknown = set(config) - top - LANDING
    assert not unknown
    for section in ("raft", "limits", "session", "log"):
        assert set(config.get(section, {})) <= struct_fields(section.capitalize())


@EACH
def test_the_configuration_says_what_the_values_do(name):
    config = configuration(RENDERED[name])
    for section, wanted in ACCEPTED[name].get("config", {}).items():
        said = config[section]
        # 20 must not become 20.0, which the server would refuse.
        assert repr({key: said[key] for key in wanted} if isinstance(wanted, dict) else said) == repr(wanted)


# Keys that a server of this checkout may not have yet; empty once it has.
LANDING = {"listen_peer", "tls", "auth"} - struct_fields("Config")


@EACH
def test_the_binary_accepts_the_configuration(name, tmp_path):
    """With $CONCLAVED: `check-config` reads it, and says back what the values asked for."""
    binary = os.environ.get("CONCLAVED")
    if not binary:
        pytest.skip("CONCLAVED names no binary")
    objects = RENDERED[name]
    text = next(item["data"]["conclaved.toml"] for item in objects.of("ConfigMap") if "conclaved.toml" in item["data"])
    (tmp_path / "conclaved.toml").write_text(text)
    run = subprocess.run(
        [binary, "check-config", "--config", tmp_path / "conclaved.toml", "--id=1"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = tomllib.loads(run.stdout)
    for section, wanted in ACCEPTED[name].get("config", {}).items():
        if isinstance(wanted, dict):
            assert {key: said[section][key] for key in wanted} == wanted
        else:
            assert said[section] == wanted


@EACH
def test_members_are_the_founders_by_their_pods_names(name):
    objects = RENDERED[name]
    stateful = objects.one("StatefulSet")
    config = configuration(objects)
    values = ACCEPTED[name]
    founders = values.get("initialReplicas") or values.get("replicas", 3)
    assert stateful["spec"]["replicas"] == values.get("replicas", 3)
    assert stateful["metadata"]["annotations"]["conclave/initial-replicas"] == str(founders)
    domain = values.get("clusterDomain", "cluster.local")
    assert [member["id"] for member in config["members"]] == list(range(1, founders + 1))
    for ordinal, member in enumerate(config["members"]):
        host = f"{stateful['metadata']['name']}-{ordinal}.{stateful['spec']['serviceName']}.{NAMESPACE}.svc.{domain}"
        assert member["address"] == f"{host}:7402"
        assert member["client_address"] == f"{host}:7401"
    env = {item["name"]: item.get("value") for item in container(server(objects))["env"]}
    if name != "merge":
        template = config["members"][0]["address"].replace(f"{stateful['metadata']['name']}-0", "$(POD_NAME)")
        assert env["CONCLAVE_ADVERTISE"] == template
    assert env["CONCLAVE_ID"] == "from-hostname"


@EACH
def test_the_headless_service_is_the_one_that_names_the_pods(name):
    objects = RENDERED[name]
    headless = objects.one("Service", objects.one("StatefulSet")["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    assert objects.one("StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"


@EACH
def test_dns_names_are_short_enough(name):
    objects = RENDERED[name]
    for item in objects:
        assert len(item["metadata"]["name"]) <= 63
    # The label controller-revision-hash is the name, a dash and ten characters.
    assert len(objects.one("StatefulSet")["metadata"]["name"]) <= 52


# ---- pods


@EACH
def test_probes_ask_what_they_should(name):
    main = container(server(RENDERED[name]))
    assert main["startupProbe"]["httpGet"]["path"] == "/livez"
    assert main["livenessProbe"]["httpGet"]["path"] == "/livez", "a lost majority is no reason for a restart"
    assert main["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # The server gives its disk ten seconds before it calls itself dead: a shorter time limit would never hear it.
    assert main["livenessProbe"]["timeoutSeconds"] > 10
    startup = main["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    secure = ACCEPTED[name].get("tls", {}).get("http")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[probe]["httpGet"].get("scheme", "HTTP") == ("HTTPS" if secure else "HTTP")


@EACH
def test_every_pod_is_restricted(name):
    """The "restricted" Pod Security Standard, and a read-only root."""
    for key, template in pod_templates(RENDERED[name]).items():
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False, key
        assert spec["automountServiceAccountToken"] is key.startswith("Job/"), key
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["seccompProfile"] == {"type": "RuntimeDefault"}, key
        foreign = {item["name"] for field in ("extraContainers", "initContainers") for item in ACCEPTED[name].get(field, [])} | {"beside"}
        for item in spec["containers"] + spec.get("initContainers", []):
            if item["name"] in foreign:
                continue
            context = item["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert item["resources"]["limits"]["memory"] and item["resources"]["requests"]["cpu"]
        for volume in spec["volumes"]:
            assert not {"hostPath", "projected"} & set(volume)


@EACH
def test_mounts_have_volumes_and_secrets_exist_or_are_the_users(name):
    objects, values = RENDERED[name], ACCEPTED[name]
    made = {item["metadata"]["name"] for item in objects.of("Secret")}
    made |= {item["spec"]["secretName"] for item in objects.of("Certificate")}
    for job in objects.of("Job"):
        args = job["spec"]["template"]["spec"]["containers"][0]["args"]
        made |= {arg.split("=", 1)[1] for arg in args if arg.startswith("--to-secret=")}
    made |= {values.get("tls", {}).get("existingSecret"), values.get("auth", {}).get("existingSecret")}
    claims = {item["metadata"]["name"] for item in objects.one("StatefulSet")["spec"].get("volumeClaimTemplates", [])}
    for key, template in pod_templates(objects).items():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        known = set(volumes) | (claims if key.startswith("StatefulSet/") else set())
        for item in template["spec"]["containers"]:
            mounts = [mount["name"] for mount in item.get("volumeMounts", [])]
            assert set(mounts) <= known and len(mounts) == len(set(mounts))
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made, key
                assert volume["secret"]["defaultMode"] == 0o440


@EACH
def test_paths_in_the_configuration_are_mounted(name):
    objects = RENDERED[name]
    config = configuration(objects)
    mounts = [mount["mountPath"] for mount in container(server(objects))["volumeMounts"]]
    paths = [config["data_dir"], *[value for key, value in config.get("tls", {}).items() if key.endswith("_file")]]
    paths += [config["auth"]["token_file"]] if "token_file" in config["auth"] else []
    for path in paths:
        assert any(path.startswith(f"{mount}/") for mount in mounts), path


@EACH
def test_no_secret_is_in_a_config_map_or_a_variable(name):
    objects, values = RENDERED[name], ACCEPTED[name]
    for token in values.get("auth", {}).get("tokens", {}).values():
        for item in objects:
            if item["kind"] != "Secret":
                assert token not in str(item), item["kind"]
        assert token in objects.of("Secret")[0]["stringData"]["tokens"]


@EACH
def test_the_image_is_one(name):
    images = {
        item["image"]
        for template in pod_templates(RENDERED[name]).values()
        for item in template["spec"]["containers"]
        if item["name"] in ("conclaved", "cert", "verify", "status")
    }
    assert len(images) == 1


def test_the_image_is_named_as_asked():
    def image(name):
        return container(server(RENDERED[name]))["image"]

    assert image("defaults") == "conclave:0.1.0"
    assert image("image-tag") == "conclave:dev"
    assert image("image") == f"registry.example.com:5000/infra/conclave@sha256:{'0123456789abcdef' * 4}"


def test_the_version_is_the_workspace_version():
    import yaml

    from chart import CHART

    workspace = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == workspace


# ---- TLS


@EACH
def test_the_certificate_has_every_name_it_needs(name):
    objects, values = RENDERED[name], ACCEPTED[name]
    mode = values.get("tls", {}).get("mode", "selfMade")
    names = set()
    for job in objects.of("Job"):
        args = job["spec"]["template"]["spec"]["containers"][0]["args"]
        names = {arg.split("=", 1)[1] for arg in args if arg.startswith("--name=")}
    for certificate in objects.of("Certificate"):
        names = {*certificate["spec"]["dnsNames"], *certificate["spec"]["ipAddresses"]}
        assert {"server auth", "client auth"} <= set(certificate["spec"]["usages"])
    assert bool(names) == (mode in ("selfMade", "certManager"))
    if not names:
        return
    for member in configuration(objects)["members"]:
        assert member["address"].split(":")[0] in names
    env = {item["name"]: item.get("value") for item in container(server(objects))["env"]}
    urls = env["CONCLAVE_ENDPOINTS"].split(",")
    urls += [e["value"] for key, t in pod_templates(objects).items() if key.startswith("Pod/") for e in t["spec"]["containers"][0]["env"] if e["name"] == "CONCLAVE_ENDPOINTS"]
    for url in ",".join(urls).split(","):
        host, port = re.fullmatch(r"https://([^:]+):(\d+)", url).groups()
        assert host in names
        service = host.startswith(f"{objects.one('StatefulSet')['metadata']['name']}.")
        assert int(port) == (values.get("service", {}).get("port", 7401) if service else 7401)
    assert set(values.get("tls", {}).get("extraNames", [])) <= names


def test_more_servers_take_no_other_certificate():
    def args(values):
        return render(values).one("Job")["spec"]["template"]["spec"]["containers"][0]["args"]

    assert args({"replicas": 3}) == args({"replicas": 5, "initialReplicas": 3})


def test_plain_text_is_said_aloud():
    assert "PLAIN TEXT" in notes({"tls": {"mode": "disabled"}})
    assert "PLAIN TEXT" not in notes()


def test_the_hook_may_do_what_it_does_and_no_more():
    objects = RENDERED["defaults"]
    rules = objects.one("Role")["rules"]
    assert rules == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["demo-conclave-tls", "demo-conclave-tls-ca"], "verbs": ["get"]},
    ]
    job = objects.one("Job")
    account = job["spec"]["template"]["spec"]["serviceAccountName"]
    binding = objects.one("RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    assert binding["roleRef"]["name"] == objects.one("Role")["metadata"]["name"]
    hooks = {item["kind"]: int(item["metadata"]["annotations"]["helm.sh/hook-weight"]) for item in objects if is_hook(item) and item["kind"] != "Pod"}
    assert set(hooks) == {"ServiceAccount", "Role", "RoleBinding", "Job"}
    assert all(weight < hooks["Job"] for kind, weight in hooks.items() if kind != "Job"), "the job comes last"


@pytest.mark.parametrize("name", [name for name in RENDERED if ACCEPTED[name].get("tls", {}).get("mode", "selfMade") != "selfMade"])
def test_no_hook_and_no_rights_where_certificates_come_from_elsewhere(name):
    for kind in ("Job", "Role", "RoleBinding"):
        assert not RENDERED[name].of(kind)


# ---- merge


def test_merge_lays_over_by_name_and_null_removes():
    objects = RENDERED["merge"]
    pod = server(objects)["spec"]
    env = {item["name"]: item.get("value") for item in container(server(objects))["env"]}
    assert env["TZ"] == "UTC" and env["CONCLAVE_ADVERTISE"] == "elsewhere:7402" and env["CONCLAVE_ID"] == "from-hostname"
    assert [item["name"] for item in pod["containers"]] == ["conclaved", "beside"]
    assert container(server(objects))["image"] == "conclave:0.1.0"
    budget = objects.one("PodDisruptionBudget")["spec"]
    assert "maxUnavailable" not in budget and budget["minAvailable"] == 2
    (port,) = objects.one("Service", "demo-conclave")["spec"]["ports"]
    assert port["appProtocol"] == "grpc" and port["port"] == 7401


def test_merge_reaches_every_object():
    import json

    from chart import CHART

    names = set(json.loads((CHART / "values.schema.json").read_text())["properties"]["merge"]["properties"])
    everything = {
        "auth": {"tokens": {"a": "0123456789abcdef"}},
        "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        "merge": {name: {"metadata": {"labels": {"merged": name}}} for name in names},
    }
    certificate = {"tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "x"}}}, **everything}
    reached = set()
    for values in (everything, certificate):
        for item in render(values):
            assert "merged" in item["metadata"]["labels"], f"{item['kind']} has no name in merge"
            reached.add(item["metadata"]["labels"]["merged"])
    assert reached == names
