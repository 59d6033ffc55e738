"""The torch drawing model against diffusers' own module and against the shipped numpy engine; its optimiser against torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from sensorium.engines.drawing import Draw
from sensorium.engines.flow_image.engine import FlowImage
from training import flow_sheet
from training.flow_data import Captions, batch, words
from training.flow_export import export_flow
from training.flow_model import FlowConfig, FlowModel, FluxTransformer, pack, sample, times, unpack
from training.flow_run import Plan, averaged
from training.flow_state import FlatState, orthogonalise_oblong
from training.flow_train import run, uses_muon
from training.optim import orthogonalise

PROMPT = "a small red cube on a white table, in the middle"
TINY = FlowConfig(num_layers=1, num_single_layers=1, text_layers=1, vocab_size=len(words()))


def randomised(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        gain = parameter.ndim == 1 and "norm_" in name and "bias" not in name
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + (1.0 if gain else 0.0)


@pytest.mark.parametrize("guided", [False, True])
def test_equals_diffusers(guided: bool) -> None:
    config = FlowConfig(guidance_embeds=guided)
    official = {name: value for name, value in config.official().items() if name != "_class_name"}
    ours, theirs = FluxTransformer(config).eval(), FluxTransformer2DModel(**official).eval()
    randomised(ours)
    theirs.load_state_dict(ours.state_dict())
    x, text, pooled = torch.randn(2, 64, 432), torch.randn(2, 20, 192), torch.randn(2, 192)
    t, guidance = torch.tensor([0.37, 1.0]), torch.tensor([3.5, 1.0])
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ids = torch.stack([torch.zeros(64), row.flatten(), column.flatten()], -1)
    with torch.no_grad():
        mine = ours(x, t, text, pooled, guidance if guided else None)
        reference = theirs(
            hidden_states=x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=t,
            img_ids=ids,
            txt_ids=torch.zeros(20, 3),
            guidance=guidance if guided else None,
        ).sample
    assert (mine - reference).abs().max() < 2e-5 * reference.std()


def test_a_guidance_input_wants_a_guidance() -> None:
    model = FlowModel(FlowConfig(num_layers=0, num_single_layers=0, vocab_size=4, guidance_embeds=True))
    with pytest.raises(ValueError, match="guidance"):
        model(torch.zeros(1, 64, 432), torch.ones(1), torch.zeros(1, 20, dtype=torch.long))


def test_a_token_is_one_patch_in_rows_columns_channels() -> None:
    images = torch.arange(2 * 6 * 6 * 3).view(2, 6, 6, 3)
    tokens = pack(images, 3)
    assert torch.equal(tokens[1, 2], images[1, 3:6, 0:3].reshape(-1))
    assert torch.equal(unpack(tokens, 3), images)


def test_a_perfect_prediction_is_reached_from_any_noise() -> None:
    class Knowing(FlowModel):
        """Returns the right picture whatever it sees."""

        def __init__(self) -> None:
            super().__init__(TINY)
            self.transformer.forward = lambda x, *_: torch.full_like(x, 0.25)  # type: ignore[method-assign]

    drawn = sample(Knowing(), torch.zeros(1, 20, dtype=torch.long), torch.randn(1, 64, 432), steps=3)
    assert torch.allclose(drawn, torch.full((1, 96, 96, 3), 0.25), atol=1e-6)
    assert times(4, 1.5).tolist() == pytest.approx([1, 9 / 11, 0.6, 1 / 3, 0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps: trained is a large word for it."""
    out = tmp_path_factory.mktemp("run")
    run(Plan(str(out), steps=3, processes=1, micro=2, micros=1, warmup=1), TINY)
    return out


def test_the_shipped_engine_draws_the_same_picture(trained: Path, tmp_path: Path) -> None:
    export_flow(trained / "checkpoint.pt", tmp_path, plain=True)
    model = FlowModel(TINY)
    model.load_state_dict(averaged(torch.load(trained / "checkpoint.pt", weights_only=True)))
    ours = np.asarray(FlowImage.load(tmp_path).draw(Draw(PROMPT, seed=5, steps=3)).image).astype(int)
    theirs = flow_sheet.draw(model, [PROMPT], [5], steps=3)[0].astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_int8_changes_little_and_takes_a_quarter(trained: Path, tmp_path: Path) -> None:
    sizes = [export_flow(trained / "checkpoint.pt", tmp_path / str(plain), plain=plain) for plain in (False, True)]
    pictures = [np.asarray(FlowImage.load(tmp_path / str(plain)).draw(Draw(PROMPT, seed=5)).image).astype(int) for plain in (False, True)]
    assert sizes[0] < 0.3 * sizes[1]
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


def test_two_processes_train_and_a_finished_run_goes_on(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path), steps=2, processes=2, micro=2, micros=2, warmup=1, early=0.0)
    first = run(plan, TINY)
    second = run(Plan(str(tmp_path), steps=4, processes=2, micro=2, micros=2, warmup=1, early=0.0), TINY)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (first["step"], second["step"], saved["drawn"], saved["pictures"]) == (2, 4, 8, 16)


def test_distillation_starts_from_the_first_stage_and_adds_a_guidance_input(trained: Path, tmp_path: Path) -> None:
    plan = Plan(str(tmp_path), steps=1, processes=1, micro=2, micros=1, warmup=1, stage="distill", start=str(trained / "checkpoint.pt"))
    run(plan, TINY)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    before, after = averaged(torch.load(trained / "checkpoint.pt", weights_only=True)), averaged(saved)
    assert saved["config"]["guidance_embeds"] and saved["before"]["step"] == 3
    assert set(after) - set(before) == {
        f"transformer.time_text_embed.guidance_embedder.linear_{i}.{p}" for i in (1, 2) for p in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="--start"):
        run(Plan(str(tmp_path / "other"), steps=1, stage="distill"), TINY)


def test_a_batch_depends_on_its_number_alone() -> None:
    one, two, other = (batch(1, number, 3, Captions(20), size=96, patch=12, shift=1.5, blank=0.5) for number in (7, 7, 8))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("clean", "noise", "ids", "t", "weight"))
    assert not torch.equal(one.clean, other.clean)
    assert float(one.weight.mean()) == pytest.approx(1, abs=1e-4) and float(one.clean.abs().max()) <= 1


def test_captions_refuse_what_the_model_cannot_read() -> None:
    captions = Captions(20)
    assert len(captions.ids(PROMPT)) == 20 and captions.ids(PROMPT)[-1] == 0
    for wrong in ("a small red dog", " ".join(["red"] * 21)):
        with pytest.raises(ValueError, match="known words"):
            captions.ids(wrong)


def test_shares_cover_every_parameter_once() -> None:
    state = FlatState(FlowModel(TINY), uses_muon, 3)
    seen = torch.zeros(len(state.weight))
    for rank in range(3):
        for part in state.share(rank, 3).slices():
            seen[part] += 1
    assert torch.equal(seen, torch.ones_like(seen))


def stepped(gradient: Tensor, processes: int) -> tuple[Tensor, FlatState]:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    state = FlatState(model, lambda name, parameter: False, processes)
    for step in range(1, 4):
        state.gradients[:] = gradient / step
        shares = [state.share(rank, processes) for rank in range(processes)]
        for rank, share in enumerate(shares):
            state.collect(share, rank, processes)
        for share in shares:
            state.step(share, step=step, adam_lr=1e-2, muon_lr=0, clip=1e9, ema=0.5)
    return state.weight.clone(), state


def test_the_flat_optimiser_equals_torch_adam_for_any_number_of_processes() -> None:
    gradient = torch.linspace(-1, 1, 28)
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    reference = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.98))
    one, state = stepped(gradient, 1)
    for step in range(1, 4):
        named = dict(model.named_parameters())
        for span in state.layout:
            named[span.name].grad = (gradient / step)[span.begin : span.end].view(span.shape)
        reference.step()
    expected = torch.cat([dict(model.named_parameters())[span.name].detach().flatten() for span in state.layout])
    assert torch.allclose(one, expected, atol=1e-6)
    assert torch.allclose(stepped(gradient, 2)[0], one, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 48, 12), (2, 12, 48)])
def test_the_oblong_orthogonalisation_equals_the_plain_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonalise_oblong(stack), orthogonalise(stack, dtype=torch.float32), atol=1e-4)
