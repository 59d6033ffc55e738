"""Video models: MP4 files whose frames decode, in each model's shape, and the bodies that are refused."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.simulators.site import AI, Site

SVD = f"{AI}/v1/genai/stabilityai/stable-video-diffusion"
PREDICT, COSMOS3 = f"{AI}/v1/cosmos/nvidia/cosmos-predict1-7b", f"{AI}/v1/cosmos/nvidia/cosmos3-nano"
SMALL = {"height": 64, "width": 96, "frames_count": 5, "frames_per_sec": 24}
FILM = {"prompt": "a cube turns", "seed": 3, "video_params": SMALL}


def still(kind: str = "png", size: tuple[int, int] = (64, 48)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of an ISO media file, one level."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        yield kind, data[at + 8 : at + size]
        at += size


def inside(data: bytes, *path: bytes) -> bytes:
    for kind in path:
        data = dict(boxes(data))[kind]
    return data


def frames(film: bytes) -> list[bytes]:
    """The samples of the only track, by its tables."""
    assert [kind for kind, _ in boxes(film)] == [b"ftyp", b"moov", b"mdat"]
    table = inside(film, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    count = struct.unpack_from(">I", inside(table, b"stsz"), 8)[0]
    sizes = struct.unpack_from(f">{count}I", inside(table, b"stsz"), 12)
    starts = struct.unpack_from(f">{count}I", inside(table, b"stco"), 8)
    return [film[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def decoded(frame: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(frame))
    image.load()
    return image


def test_cosmos_makes_a_film_of_the_length_and_size_asked_for(site: Site) -> None:
    answer = site.post(PREDICT, FILM).json
    assert (set(answer), answer["seed"]) == ({"b64_video", "seed", "upsampled_prompt"}, 3)
    film = base64.b64decode(answer["b64_video"], validate=True)
    shown = [decoded(frame) for frame in frames(film)]
    assert ([image.format for image in shown], {image.size for image in shown}) == (["JPEG"] * 5, {(96, 64)})
    assert len(set(frames(film))) > 1
    timescale, length = struct.unpack_from(">II", inside(film, b"moov", b"mvhd"), 12)
    assert length / timescale == pytest.approx(5 / 24)


def test_films_follow_from_prompt_and_seed(site: Site) -> None:
    def film(**changes: Any) -> str:
        return str(site.post(PREDICT, {**FILM, **changes}).json["b64_video"])

    assert film() == film()
    assert len({film(), film(seed=4), film(prompt="a ball rolls")}) == 3


def test_cosmos3_names_its_resolutions(site: Site) -> None:
    answer = site.post(COSMOS3, {"prompt": "a", "resolution": "256_16_9", "num_output_frames": 9}).json
    assert set(answer) == {"b64_video", "seed"}
    shown = frames(base64.b64decode(answer["b64_video"]))
    assert (len(shown), decoded(shown[0]).size) == (9, (455, 256))


def test_svd_moves_a_picture(site: Site) -> None:
    for kind in ("png", "jpeg"):
        answer = site.post(SVD, {"image": still(kind), "seed": 5}).json
        assert (list(answer), answer["finish_reason"], answer["seed"]) == (["video", "finish_reason", "seed"], "SUCCESS", 5)
        shown = frames(base64.b64decode(answer["video"]))
        assert (len(shown), decoded(shown[0]).size) == (25, (1024, 576))
        red, green, _ = decoded(shown[0]).getpixel((500, 300))
        assert (red > 200, green < 50) == (True, True)
    assert site.post(SVD, {"image": still()}, x_simulate="filtered").json["finish_reason"] == "CONTENT_FILTERED"


@pytest.mark.parametrize(
    ("path", "change", "field", "said"),
    [
        (PREDICT, {"prompt": None}, "prompt", "valid string"),
        (PREDICT, {"prompt": "word " * 251}, "prompt", "at most 250 words"),
        (PREDICT, {"guidance_scale": 11}, "guidance_scale", "less than or equal to 10"),
        (PREDICT, {"steps": 51}, "steps", "less than or equal to 50"),
        (PREDICT, {"seed": -1}, "seed", "greater than or equal to 0"),
        (PREDICT, {"fps": 24}, "fps", "Extra inputs are not permitted"),
        (COSMOS3, {"video_params": None, "resolution": "1080_16_9"}, "resolution", "pattern"),
        (COSMOS3, {"video_params": None, "num_output_frames": 10}, "num_output_frames", "4k+1"),
        (SVD, {"image": still(), "motion_bucket_id": 100}, "motion_bucket_id", "greater than or equal to 127"),
        (SVD, {"image": still(), "cfg_scale": 1}, "cfg_scale", "greater than 1"),
        (SVD, {"image": still(), "prompt": "a"}, "prompt", "Extra inputs are not permitted"),
        (SVD, {"image": "https://example.com/a.png"}, "image", "invalid form"),
        (SVD, {"image": "data:image/png;base64,AAAA"}, "image", "cannot be decoded"),
        (SVD, {"image": still("png").replace("image/png", "image/webp")}, "image", "invalid form"),
    ],
)
def test_bodies_that_are_refused(site: Site, path: str, change: dict[str, Any], field: str, said: str) -> None:
    whole = {**({} if path == SVD else FILM), **change}
    body = {name: value for name, value in whole.items() if not (name == "video_params" and value is None)}
    # A stream of events is passed through, so that the container's own words are seen.
    answer = site.post(path, body, Accept="text/event-stream")
    assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["body", field])
    assert said in answer.json["detail"][0]["msg"]
    rewritten = site.post(path, body)
    assert (rewritten.status, rewritten.json["detail"]) == (422, "Inference error")


def test_a_picture_over_200_kb_is_refused(site: Site) -> None:
    out = io.BytesIO()
    Image.new("RGB", (300, 300)).save(out, "bmp")
    large = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    answer = site.post(SVD, {"image": large}, Accept="text/event-stream")
    assert (answer.status, "smaller than 200000 bytes" in answer.json["detail"][0]["msg"]) == (422, True)
