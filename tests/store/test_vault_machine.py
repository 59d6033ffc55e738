"""Any sequence of operations, by two processes in turn, against a dictionary that does the same in the plainest way."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sensorium.store.secret import NoPreviousVersion, SecretDisabled, SecretMissing, UnknownSecret
from sensorium.store.vault import Vault
from tests.store.vaults import WHO, opened

NAMES = st.sampled_from(["a", "b"])
HOSTS = st.sampled_from(["one.example", "two.example"])
SIDES = st.integers(0, 1)


@dataclass
class Model:
    """What a secret should be: the current and the previous (value, host), and the highest version ever given."""

    version: int = 0
    current: tuple[str, str] | None = None
    previous: tuple[str, str] | None = None
    disabled: bool = False

    def store(self, pair: tuple[str, str]) -> None:
        self.version, self.current, self.previous = self.version + 1, pair, self.current


class VaultMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.open = ExitStack()
        self.models = {"a": Model(), "b": Model()}
        self.stored = 0
        self.start()

    def start(self) -> None:
        self.sides: list[Vault] = [self.open.enter_context(opened(self.folder)) for _ in range(2)]

    def value(self) -> str:
        self.stored += 1
        return f"value-{self.stored}"

    @rule(side=SIDES, name=NAMES, host=HOSTS)
    def put(self, side: int, name: str, host: str) -> None:
        value = self.value()
        self.sides[side].put(name, value, [host], who=WHO)
        self.models[name].store((value, host))

    @rule(side=SIDES, name=NAMES)
    def rotate(self, side: int, name: str) -> None:
        model, value = self.models[name], self.value()
        if model.current is None:
            with pytest.raises(UnknownSecret):
                self.sides[side].rotate(name, value, who=WHO)
        else:
            self.sides[side].rotate(name, value, who=WHO)
            model.store((value, model.current[1]))

    @rule(side=SIDES, name=NAMES)
    def rollback(self, side: int, name: str) -> None:
        model = self.models[name]
        if model.current is None or model.previous is None:
            with pytest.raises(UnknownSecret if model.current is None else NoPreviousVersion):
                self.sides[side].rollback(name, who=WHO)
        else:
            self.sides[side].rollback(name, who=WHO)
            model.store(model.previous)

    @rule(side=SIDES, name=NAMES, disabled=st.booleans())
    def switch(self, side: int, name: str, disabled: bool) -> None:
        model, act = self.models[name], self.sides[side].disable if disabled else self.sides[side].enable
        if model.current is None:
            with pytest.raises(UnknownSecret):
                act(name, who=WHO)
        else:
            act(name, who=WHO)
            model.disabled = disabled

    @rule(side=SIDES, name=NAMES)
    def remove(self, side: int, name: str) -> None:
        model = self.models[name]
        if model.current is None:
            with pytest.raises(UnknownSecret):
                self.sides[side].remove(name, who=WHO)
        else:
            self.sides[side].remove(name, who=WHO)
            self.models[name] = Model(model.version)

    @rule(side=SIDES)
    def rekey(self, side: int) -> None:
        kept = [pair for model in self.models.values() for pair in (model.current, model.previous) if pair]
        assert self.sides[side].rekey(who=WHO) == len(kept)

    @rule()
    def restart(self) -> None:
        self.open.close()
        self.start()

    @invariant()
    def both_processes_reveal_what_the_model_says(self) -> None:
        for side in self.sides:
            for name, model in self.models.items():
                if model.current is None or model.disabled:
                    with pytest.raises(SecretMissing if model.current is None else SecretDisabled):
                        side.reveal(name, "one.example")
                else:
                    found = side.reveal(name, model.current[1])
                    assert (found.value, found.version) == (model.current[0], model.version)

    @invariant()
    def the_list_is_the_models(self) -> None:
        for side in self.sides:
            told = {entry.name: (entry.version, entry.hosts[0], entry.previous, entry.standing.status) for entry in side.entries()}
            assert told == {
                name: (model.version, model.current[1], model.previous is not None, "disabled" if model.disabled else "ready")
                for name, model in self.models.items()
                if model.current is not None
            }

    def teardown(self) -> None:
        self.open.close()
        shutil.rmtree(self.folder)


VaultMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestVaultMachine = VaultMachine.TestCase
