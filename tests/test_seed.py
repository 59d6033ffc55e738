"""The curl lines of the skill document that this hub implements, as they stand; only the picture's path is filled in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.hub_process import hub_environment

VISION = r"""B64=$(base64 -w0 path/to/image.png)
curl -s -X POST "$MAC_HUB_URL/v1/chat/completions" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d "{\"model\":\"*\",\"max_tokens\":300,\"messages\":[{\"role\":\"user\",\"content\":[
{\"type\":\"text\",\"text\":\"Describe this image.\"},
{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,$B64\"}}]}]}"
"""
SCHNELL = r"""curl -s -X POST "$MAC_HUB_URL/v1/genai/black-forest-labs/flux.1-schnell" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Accept: application/json' -H 'Content-Type: application/json' \
-d '{"prompt":"a red cube on a white table","steps":4,"seed":0}' -o out.json
"""
DEV = r"""curl -s -X POST "$MAC_HUB_URL/v1/genai/black-forest-labs/flux.1-dev" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"prompt":"a red cube on a white table","steps":8,"seed":0}' -o out.json
"""
DECODE = r"""python3 -c "import json,base64,sys; d=json.load(open('out.json'));
b=(d.get('artifacts') or [{}])[0].get('base64') or d.get('image') or d.get('b64_json');
open('out.png','wb').write(base64.b64decode(b)) if b else sys.exit('no image: '+str(d)[:200])"
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("curl"), reason="the document's lines need curl and GNU base64")


def shell(lines: str, folder: Path, hub: str) -> str:
    env = hub_environment(MAC_HUB_URL=hub, MAC_API_TOKEN="none")
    done = subprocess.run(["bash", "-eu", "-c", lines], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [SCHNELL, DEV], ids=["schnell", "dev"])
def test_drawing_and_decoding(line: str, hub: str, tmp_path: Path) -> None:
    shell(line + DECODE, tmp_path, hub)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (1024, 1024)


def test_vision_up_to_what_one_argument_can_hold(hub: str, tmp_path: Path) -> None:
    noise = Image.effect_noise((300, 300), 90)
    target = tmp_path / "path/to/image.png"
    target.parent.mkdir(parents=True)
    noise.save(target)
    assert 80_000 < target.stat().st_size < 95_000
    assert json.loads(shell(VISION, tmp_path, hub))["choices"][0]["message"]["content"]
