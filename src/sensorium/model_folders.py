"""What a model folder says of itself without being loaded: its kind, what it knows about, its licence.

It knows neither settings nor engines.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Kind = Literal["diffusion_vlm", "flow_image", "flux"]

PACKAGED: Final = Path(__file__).parent / "models"
PULLED, RECORD = "models", "sensorium-pull.json"  # below the data folder, as ORG--NAME: what `sensorium pull` has fetched, and its record
SIDE, PIPELINE, CONFIG, CARD = "sensorium.json", "model_index.json", "config.json", "README.md"
OWN_KINDS: Final[dict[str, Kind]] = {"diffusion_vlm": "diffusion_vlm", "flow_image": "flow_image"}
LICENCE = re.compile(r"^(license_name|license): *([^\n]{1,100})$", re.MULTILINE)
CARD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """`name` is the id that callers use where the settings give none, `scope` what it knows about, `licence` its name (None: not told).

    A `small` one says of itself what it is, and runs without torch.
    """

    path: Path
    name: str
    kind: Kind
    scope: str
    licence: str | None
    small: bool = False


def packaged(path: Path) -> bool:
    """Whether a folder is one of those that ship in the package."""
    return path.resolve().is_relative_to(PACKAGED.resolve())


def pulled(id: str, data_dir: Path) -> Path:
    """Where `sensorium pull` puts a checkpoint. A folder whose name differs in case only is the same model's."""
    home, name = data_dir / PULLED, id.replace("/", "--")
    there = sorted(folder.name for folder in home.iterdir()) if home.is_dir() else []
    return home / next((one for one in there if one.lower() == name.lower()), name)


def look(path: Path) -> ModelFolder:
    """What is in a folder. Raises ValueError with what is wrong with it."""
    if not path.is_dir():
        raise ValueError("there is no such folder")
    if (path / RECORD).is_file() and not _json(path, RECORD).get("complete"):
        raise ValueError("its download was interrupted; run `sensorium pull` again")
    if (path / SIDE).is_file():
        side = _json(path, SIDE)
        kind = OWN_KINDS.get(str(side.get("kind")))
        if kind is None:
            raise ValueError(f"{SIDE}: kind must be {' or '.join(OWN_KINDS)}, not {side.get('kind')!r}")
        return ModelFolder(path, _name(path), kind, str(side.get("scope") or "general"), _licence(path), small=True)
    if (path / PIPELINE).is_file():
        made = str(_json(path, PIPELINE).get("_class_name"))
        if made != "FluxPipeline":
            raise ValueError(f"{PIPELINE} is of a {made[:60]}; of diffusers' pipelines only FluxPipeline can be run")
        return ModelFolder(path, _name(path), "flux", "general", _licence(path))
    if (path / CONFIG).is_file():  # official checkpoints come without a file of ours; the engine looks at what this one says
        return ModelFolder(path, _name(path), "diffusion_vlm", "general", _licence(path))
    raise ValueError(f"it holds no model: neither {SIDE} nor {PIPELINE} nor {CONFIG}")


def _name(path: Path) -> str:
    return f"sensorium/{path.name}" if packaged(path) else path.resolve().name


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        told = json.loads((path / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{name} cannot be read") from None
    return told if isinstance(told, dict) else {}


def _licence(path: Path) -> str | None:
    """As the record of a pull names it, or the head of the model card."""
    if (path / RECORD).is_file():
        told = _json(path, RECORD).get("licence")
        return str(told["name"]) if isinstance(told, dict) and told.get("name") else None
    try:
        with (path / CARD).open("rb") as file:
            card = file.read(CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    head = card.split("---", 2)[1] if card.startswith("---") and card.count("---") > 1 else ""
    found = {match[1]: match[2] for match in LICENCE.finditer(head)}
    named = found.get("license_name") or found.get("license")
    return named.strip().strip("\"'") if named else None
