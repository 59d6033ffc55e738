"""What we know of the licences of checkpoints that the engines were written for. The licence's own text decides, not this table.

It does not know where checkpoints come from, nor whether anybody has agreed to anything.
"""

from __future__ import annotations

import re

NVIDIA_OPEN = "NVIDIA Nemotron Open Model License: commercial use is allowed"
# Model id as a pattern, without regard to case -> what we know, in a sentence. The first that fits counts.
KNOWN = (
    (
        r"nvidia/nemotron-labs-diffusion-vlm-.*",
        "nscl-v1, the NVIDIA Source Code License: non-commercial use only (research or evaluation); it goes with every copy",
    ),
    (r"nvidia/nemotron-labs-diffusion-.*", NVIDIA_OPEN),
    (r"black-forest-labs/flux\.1-schnell", "Apache-2.0: commercial use is allowed"),
    (r"black-forest-labs/flux\.1-dev", "FLUX.1 [dev] Non-Commercial License: the model is for non-commercial use only"),
)


def known(model_id: str) -> str | None:
    """What we know of the licence of `model_id`; None when nothing."""
    return next((sentence for pattern, sentence in KNOWN if re.fullmatch(pattern, model_id, re.IGNORECASE)), None)
