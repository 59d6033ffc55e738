"""A hub whose engines are `supervised_engine`: `python -m tests.durability.supervising_program serve ...`.

With `no-company` before `serve`, it does not look who else was in an engine that ended: for a control.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sensorium import app, cli
from sensorium.engines import supervisor

if __name__ == "__main__":
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), root])
    os.environ["PYTHON_ENGINE_JOURNAL"] = os.path.join(sys.argv[sys.argv.index("--data-dir") + 1], "journal.txt")
    supervisor.COMMAND = ("-P", "-m", "tests.durability.supervised_engine")
    if sys.argv[1] == "no-company":
        del sys.argv[1]
        app.Company = lambda send: send  # type: ignore[assignment,misc]
    cli.main()
