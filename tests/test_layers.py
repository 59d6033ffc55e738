"""The shape of the source: what may import what, where some things may stand at all, and how long they may get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "sensorium"
ORDER = (
    *(
        "errors",
        "failpoints",
        "exchange",
        "webserver",
        "egress",
        "fetch",
        "options",
        "options_queue",
        "model_folders",
        "options_engines",
        "settings",
        "settings_text",
        "reference_env",
        "wire",
        "store",
        "routing",
        "jobs",
        "apps",
        "api",
    ),
    *("certificates", "providers", "overview", "probe", "live", "status", "metrics", "durable", "doors", "local_engines", "app", "client"),
    *(
        "cli_outcome",
        "cli_calls",
        "cli_secret",
        "cli_doctor",
        "cli_import",
        "cli_set",
        "cli_status",
        "cli_provider",
        "cli_setup",
        "cli_jobs",
        "cli_client",
        "cli_tls",
        "cli_checkpoint",
        "cli_engine",
        "cli",
    ),
)
MAY_USE = {layer: set(ORDER[: place + 1]) for place, layer in enumerate(ORDER)} | {
    "local_engines": {*ORDER[: ORDER.index("local_engines") + 1], "engines"},
    "app": {*ORDER[: ORDER.index("app") + 1], "engines"},
    "client": {"errors", "wire", "client"},
    "engines": {"errors", "exchange", "webserver", "egress", "fetch", "wire", "engines"},
    "simulators": {"errors", "exchange", "webserver", "wire", "simulators"},
    "cli_checkpoint": {*ORDER[: ORDER.index("cli_checkpoint") + 1], "engines"},
    "cli_engine": {*ORDER[: ORDER.index("cli_engine") + 1], "engines"},
    "cli": {*ORDER, "simulators"},
}
# What may be imported or named only in these places (path prefixes below src/sensorium).
ONLY_IN = {
    ("numpy", "torch", "diffusers", "transformers", "tokenizers", "safetensors", "huggingface_hub", "llguidance"): ("engines/",),
    ("PIL",): ("engines/", "simulators/", "wire/picture.py", "wire/decoding.py"),
    ("aiohttp", "httpx", "requests", "urllib.request", "http.client"): (
        "routing/upstream.py",
        "jobs/webhooks.py",
        "fetch.py",
        "client.py",
    ),
    ("sqlite3", "psycopg", "asyncpg"): ("store/",),
    ("cryptography",): ("store/sealing.py", "wire/webhook.py", "certificates.py"),
    ("prometheus_client",): ("metrics.py", "engines/metrics.py"),
    ("os.environ", "os.getenv"): ("settings.py", "cli.py"),
    ("sensorium.routing.plan.plan",): ("routing/",),  # a door asks its dispatch, which knows where the caller lets the call go
}
SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.DOTALL)
SQL_IN = ("store/", "jobs/requests.py", "jobs/rows.py", "jobs/outbox.py", "jobs/webhook_keys.py")
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "stuff", "base"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
MODULE_CAP, FUNCTION_CAP = 400, 60


def imported(node: ast.AST, place: str) -> Iterator[str]:
    """Full dotted names that an import statement binds, also for relative imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ["sensorium", *Path(place).parent.parts][: -(node.level - 1) or None] if node.level else []
        module = ".".join([*package, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)


def import_problems(place: str, tree: ast.AST) -> Iterator[str]:
    layer = Path(place).parts[0].removesuffix(".py")
    for node in ast.walk(tree):
        names = list(imported(node, place))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"]
        for name in names:
            target = name.split(".")[1] if name.startswith("sensorium.") else None
            if target in MAY_USE and target not in MAY_USE.get(layer, {target}):
                yield f"{place}:{node.lineno}: {layer} may not import {target}"
            for banned, allowed in ONLY_IN.items():
                if any(f"{name}.".startswith(f"{one}.") for one in banned) and not place.startswith(allowed):
                    yield f"{place}:{node.lineno}: {name} belongs only in {', '.join(allowed)}"


def shape_problems(place: str, tree: ast.AST, lines: list[str]) -> Iterator[str]:
    if VAGUE & {part.removesuffix(".py") for part in Path(place).parts}:
        yield f"{place}: a name that says nothing"
    if len(lines) > MODULE_CAP:
        yield f"{place}: {len(lines)} lines, more than {MODULE_CAP}"
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line):
            yield f"{place}:{number}: unfinished"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_CAP:
                yield f"{place}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_CAP}"
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom) and "tart-up cost:" not in _remark(lines, inner.lineno):
                    yield f"{place}:{inner.lineno}: an import inside a function, without a '# start-up cost:' remark"
        if isinstance(node, ast.ExceptHandler) and _swallows_all(node, lines):
            yield f"{place}:{node.lineno}: a catch-all that neither raises nor says '# outermost ...: <why>'"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value) and not place.startswith(SQL_IN):
            yield f"{place}:{node.lineno}: SQL belongs only in {', '.join(SQL_IN)}"


def _remark(lines: list[str], number: int) -> str:
    """The statement's line and the comment above the block of imports that it stands in."""
    above = number - 2
    while above >= 0 and lines[above].lstrip().startswith(("import ", "from ")):
        above -= 1
    return lines[number - 1] + lines[above]


def _swallows_all(node: ast.ExceptHandler, lines: list[str]) -> bool:
    catches_all = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
    raises = isinstance(node.body[-1], ast.Raise)
    return catches_all and not raises and "outermost" not in "".join(lines[node.lineno - 1 : node.lineno + 1])


def problems(place: str, text: str) -> list[str]:
    tree = ast.parse(text)
    return sorted({*import_problems(place, tree), *shape_problems(place, tree, text.splitlines())})


def test_the_source_keeps_its_shape() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert files
    found = [problem for path in files for problem in problems(path.relative_to(SOURCE).as_posix(), path.read_text("utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} <= {*MAY_USE}


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("wire/openai.py", "from sensorium.routing.call import Call", "wire may not import routing"),
        ("wire/openai.py", "from ..routing import call", "wire may not import routing"),
        ("engines/lane.py", "from sensorium import settings", "engines may not import settings"),
        ("routing/plan.py", "from sensorium.engines.lane import Lane", "routing may not import engines"),
        ("app.py", "from sensorium.simulators.serve import serve", "app may not import simulators"),
        ("simulators/serve.py", "from sensorium import app", "simulators may not import app"),
        ("client.py", "from sensorium.settings import load", "client may not import settings"),
        ("api/openai.py", "import numpy as np", "numpy belongs only in"),
        ("wire/dataurl.py", "from PIL import Image", "PIL.Image belongs only in"),
        ("api/auth.py", "import urllib.request", "urllib.request belongs only in"),
        ("engines/server.py", "import os\nos.environ['A']", "os.environ belongs only in"),
        ("engines/server.py", "from os import environ", "os.environ belongs only in"),
        ("api/openai.py", "from sensorium.routing.plan import plan", "sensorium.routing.plan.plan belongs only in"),
        ("api/admin.py", "query = 'SELECT id\\n FROM requests'", "SQL belongs only in"),
        ("wire/utils.py", "", "says nothing"),
        ("wire/sse.py", "\n" * 401, "more than 400"),
        ("wire/sse.py", "def f():\n" + "    a = 1\n" * 60, "more than 60"),
        ("wire/sse.py", "def f():\n    import json", "import inside a function"),
        ("wire/sse.py", "try:\n    pass\nexcept Exception:\n    pass", "catch-all"),
        ("wire/sse.py", "a = 1  # TO" + "DO later", "unfinished"),
    ],
)
def test_each_rule_can_fail(place: str, text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(place, text)), problems(place, text)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("app.py", "from sensorium.engines.supervisor import EngineProcess"),
        ("cli.py", "def f():\n    # Start-up cost: slow.\n    from sensorium import app\n    from sensorium import settings"),
        ("engines/lane.py", "try:\n    pass\nexcept Exception:  # outermost: the lane outlives a bad call\n    pass"),
        ("api/nvidia.py", "try:\n    pass\nexcept BaseException:\n    print()\n    raise"),
        ("api/auth.py", "text = 'select a model from the list'"),
        ("wire/sse.py", "from urllib.parse import quote"),
    ],
)
def test_what_is_meant_to_pass_does(place: str, text: str) -> None:
    assert problems(place, text) == []
