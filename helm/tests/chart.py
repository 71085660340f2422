"""The chart as Helm's own library sees it, and what comes out of it as objects."""

import re
from pathlib import Path

import helm_python as helm
import yaml

HELM = Path(__file__).resolve().parent.parent
REPOSITORY = HELM.parent
CHART = HELM / "conclave"
TESTS = HELM / "tests"
NAME, NAMESPACE = "demo", "prod"

# What Chart.yaml claims: the oldest, and the newest that there are schemas of.
OLDEST, NEWEST = "1.25", "1.37"


class Objects(list):
    """Rendered objects, found by kind and name."""

    def of(self, kind: str) -> list[dict]:
        return [item for item in self if item["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> dict:
        found = [item for item in self.of(kind) if name in (None, item["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name or ''}: {[item['metadata']['name'] for item in found]}"
        return found[0]


def parse(text: str) -> Objects:
    return Objects(item for item in yaml.safe_load_all(text) if item)


def render(values: dict | None = None, name: str = NAME, namespace: str = NAMESPACE, **more) -> Objects:
    """Every object, hooks too."""
    files = rendered_files(values, name, namespace, **more)
    return Objects(item for path, text in sorted(files.items()) if not path.endswith("NOTES.txt") for item in parse(text))


def rendered_files(values: dict | None = None, name: str = NAME, namespace: str = NAMESPACE, **more) -> dict[str, str]:
    with helm.Chart.load(CHART) as chart:
        return chart.render(values or {}, name=name, namespace=namespace, **more)


def notes(values: dict | None = None, name: str = NAME, namespace: str = NAMESPACE) -> str:
    return rendered_files(values, name, namespace)["conclave/templates/NOTES.txt"]


def accepted() -> dict[str, dict]:
    """Values files that must do, by name."""
    return {path.stem: yaml.safe_load(path.read_text()) or {} for path in sorted((TESTS / "accepted").glob("*.yaml"))}


def refused() -> dict[str, tuple[dict, str]]:
    """Values files that must not do, and what the refusal says."""
    found = {}
    for path in sorted((TESTS / "refused").glob("*.yaml")):
        text = path.read_text()
        found[path.stem] = (yaml.safe_load(text), re.match(r"# says: (.*)", text)[1])
    return found


def is_hook(item: dict) -> bool:
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def selects(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def pod_templates(objects: Objects) -> dict[str, dict]:
    """The pods of all objects, by "Kind/name"."""
    found = {}
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            found[name] = item
        elif item["kind"] in ("StatefulSet", "Job"):
            found[name] = item["spec"]["template"]
    return found
