"""`sensorium pull` and `sensorium verify-checkpoint`: checkpoints for engines, fetched onto this disk, and examined there."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli_outcome import FAILED, fail, harmless, outcome

if TYPE_CHECKING:
    from sensorium.engines.checkpoints.pulling import Plan
    from sensorium.engines.diffusion_vlm.verification.checks import Check


def pull(
    ctx: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="MODEL_ID", help="Repository, as ORG/NAME.", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.  [default: the main branch]", show_default=False)] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder that gets models/ORG--NAME.  [default: the hub's data folder]", show_default=False)
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML settings file of the hub.", show_default=False)] = None,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="You have read the licence and agree to it.")] = False,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Do not read again what an earlier pull has checked; sizes are compared.")
    ] = False,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, check every file, and keep it in the data folder."""
    with outcome():
        # Start-up cost: the settings and the library of the hub of checkpoints take longer to import than most commands take to run.
        from sensorium.engines.checkpoints import pulling
        from sensorium.settings import load_for_vault

        place = load_for_vault(settings, ctx.obj, data_dir=home).data_dir.resolve()
        chosen = pulling.look(model_id, revision, place)
        print(offered(chosen), flush=True)
        if not (accept_licence or chosen.acknowledged):
            _ask(chosen)
        pulling.pull(chosen, datetime.now(UTC), lambda line: print(line, flush=True), trusting=only_missing)
        print(f"{chosen.folder}: complete")


def verify_checkpoint(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a diffusion VLM checkpoint.", show_default=False)],
    golden: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Golden dumps of the reference to compare with.", show_default=False)
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, numpy, cpu, cuda, cuda:N or mps; none loads no weights. auto: numpy for small checkpoints.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16, where torch computes.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine a checkpoint: files, marks, template, picture sizes, decoding against itself and against golden dumps."""
    with outcome():
        # Start-up cost: numpy and the engine take longer to import than most commands take to run.
        from sensorium.engines.diffusion_vlm.verification.verify import verify

        checks = verify(path, dumps=golden, device=device, dtype=dtype)
        failed = [check.name for check in checks if check.state == "FAIL"]
        told = {"checkpoint": str(path), "ok": not failed, "checks": [asdict(check) for check in checks]}
        print(json.dumps(told, indent=2) if as_json else harmless(table(checks)))
        if failed:
            fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", FAILED)


def table(checks: Sequence[Check]) -> str:
    """Name, state and figure of each check; a figure's further lines below its first."""
    width = max(len(check.name) for check in checks)
    further = "\n" + " " * (width + 11)
    return "\n".join(f"{check.name:<{width}}  {check.state:<7}  {check.figure.replace(chr(10), further)}" for check in checks)


def offered(chosen: Plan) -> str:
    """What somebody should know before it is fetched, as lines."""
    # Start-up cost: only the commands of this module need it.
    from sensorium.engines.checkpoints.licences import known
    from sensorium.engines.checkpoints.pulling import amount

    repository, missing = chosen.repository, chosen.missing
    come = f"{len(missing)} of them, {amount(chosen.bytes_missing)}, still to come" if missing else "all of them here"
    lines = [
        ("repository", repository.name + (" (gated: its owner grants access)" if repository.gated else "")),
        ("revision", repository.commit),
        ("files", f"{len(chosen.files)}, {amount(chosen.bytes_wanted)}; {come}"),
        ("folder", str(chosen.folder)),
        ("licence", repository.licence.name or "the model card names none"),
        ("its text", repository.licence.link or f"the model card names no place; look for it in {repository.name}"),
    ]
    told = known(repository.name)
    if told:
        lines.append(("known here", f"{told}. This is what we know of it; its text decides"))
    return "\n".join(f"{name:<12}{harmless(text, lines=False)}" for name, text in lines)


def _ask(chosen: Plan) -> None:
    """A yes from somebody who sits there, or the end of the command before anything is fetched."""
    if not sys.stdin.isatty():
        fail("nothing was fetched: read the licence, and if you agree to it, give --accept-licence", FAILED)
    if not typer.confirm("Have you read the licence, and do you agree to it?", default=False):
        fail(f"nothing was fetched: the licence of {chosen.repository.name} was not agreed to", FAILED)
