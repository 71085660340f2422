#!/usr/bin/env python3
"""Writes the table of values in the chart's README from the comments of values.yaml.

    values_table.py            writes it
    values_table.py --check    says whether it is stale

A value is described by the comment right above it that begins with "# --". Every leaf must be described, or lie below
something that is.
"""

import json
import re
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "conclave"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def rows(text: str) -> list[tuple[str, str, str]]:
    """(path, default in JSON, description) of everything described, in order."""
    values = yaml.safe_load(text)
    found, path, described, problems = [], [], None, []
    comment = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# --"):
            comment = stripped[4:].strip()
            continue
        key = re.match(r"( *)([A-Za-z_]\w*):", line)
        if not key:
            comment = None
            continue
        depth = len(key[1]) // 2
        path = path[:depth] + [key[2]]
        if described and depth <= len(described) - 1:
            described = None
        value = values
        for step in path:
            value = value[step]
        if comment is not None:
            found.append((".".join(path), json.dumps(value, ensure_ascii=False), comment))
            described = list(path)
        elif described is None and not (isinstance(value, dict) and value):
            problems.append(f"values.yaml:{number}: {'.'.join(path)} has no description")
        comment = None
    if problems:
        raise SystemExit("\n".join(problems))
    return found


def table(text: str) -> str:
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{path}` | `{default}` | {words} |" for path, default, words in rows(text)]
    return "\n".join(lines)


def main() -> int:
    readme = CHART / "README.md"
    text = readme.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    fresh = f"{head}{BEGIN}\n{table((CHART / 'values.yaml').read_text())}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if fresh != text:
            print("the table of values in helm/conclave/README.md is stale: run helm/values_table.py", file=sys.stderr)
            return 1
        return 0
    readme.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
