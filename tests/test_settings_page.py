"""docs/settings.md lists every option with its default. `python -m tests.test_settings_page` writes the list anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from sensorium.options import (
    KEYS,
    AudioSettings,
    CallsSettings,
    HostedModel,
    Local,
    ModalitySettings,
    ProviderSettings,
    RouterSettings,
    Section,
    Server,
    VaultSettings,
)
from sensorium.options_engines import EngineModel, EngineSettings
from sensorium.options_queue import CallerSettings, FilesSettings, Jobs, WebhookSettings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- options, written by tests/test_settings_page.py -->\n", "<!-- end of options -->\n"
TABLES: dict[str, type[Section]] = {
    "[server]": Server,
    "[vault]": VaultSettings,
    "[calls]": CallsSettings,
    "[local]": Local,
    "[jobs]": Jobs,
    "[files]": FilesSettings,
    "[webhooks]": WebhookSettings,
    "[callers.NAME]": CallerSettings,
    "[router]": RouterSettings,
    "[router.chat], [router.image], [router.audio], [router.video], [router.embeddings]": ModalitySettings,
    "[router.audio]": AudioSettings,
    "[providers.NAME]": ProviderSettings,
    "a model": HostedModel,
    "[engines.NAME]": EngineSettings,
    "a model of an engine": EngineModel,
}


def default(field: FieldInfo) -> str:
    """As the file would say it."""
    if field.is_required():
        return "needed"
    value = field.default
    return "" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value) if value != {} else '{}'}`"


def lines() -> Iterator[str]:
    for name, table in TABLES.items():
        inherited = {AudioSettings: ModalitySettings.model_fields, RouterSettings: KEYS}.get(table, {})
        yield f"\n`{name}`\n\n| option | default | meaning |\n|---|---|---|\n"
        for option, field in table.model_fields.items():
            if option not in inherited:
                yield f"| `{option}` | {default(field)} | {field.description} |\n"
    yield "\n"


def written(page: str) -> str:
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end
    return head + BEGIN + "".join(lines()) + END + tail


def test_the_page_lists_every_option_as_it_is() -> None:
    page = PAGE.read_text("utf-8")
    assert page == written(page), "run: python -m tests.test_settings_page"


def test_every_option_says_what_it_means() -> None:
    fields = {(name, option): field for name, table in TABLES.items() for option, field in table.model_fields.items() if option not in KEYS}
    assert [place for place, field in fields.items() if not field.description] == []


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
