"""The settings file, the flags over it, and the environment: everything wrong is told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.settings import HostedModel, Local, ProviderSettings, SecretRef, Server, VaultSettings, is_loopback, load, load_for_vault

EXAMPLE = Path(__file__).parent.parent / "sensorium.example.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "sensorium.toml"
    path.write_text(text, "utf-8")
    return path


def test_nothing_at_all_is_fine(tmp_path: Path) -> None:
    settings = load(None, {"HOME": str(tmp_path)})
    assert (settings.server.host, settings.server.port, settings.local.stand_ins) == ("127.0.0.1", 8789, True)
    assert settings.data_dir == tmp_path / ".local/share/sensorium"


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = 1234\nhost = "::1"\n')
    settings = load(path, {}, port=0, host=None, data_dir=tmp_path, allow_egress=["10.0.0.5:80"])
    assert (settings.server.port, settings.server.host, settings.data_dir) == (0, "::1", tmp_path)
    assert settings.server.allow_egress == ("10.0.0.5:80",)


def test_every_problem_is_told_with_its_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        token = "x"
        [server]
        prot = 1
        port = 99999
        allow_egress = ["nowhere"]
        [providers.nv]
        kind = "magic"
        base_url = "ftp://x"
        models = []
        """,
    )
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    told = "\n".join(caught.value.problems)
    for part in ("token: comes from", "server.prot: unknown key", "server.port", "server.allow_egress.0: write it as HOST:PORT"):
        assert part in told
    for part in ("providers.nv.kind", "providers.nv.base_url: must look like https://host/v1", "providers.nv.models"):
        assert part in told


def test_a_key_comes_from_the_variable_that_is_named_and_must_be_there(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [providers.nv]
        kind = "openai"
        base_url = "https://api.example/v1/"
        key_env = "NV_KEY"
        models = [{id = "m"}]
        """,
    )
    settings = load(path, {"NV_KEY": "k"})
    assert settings.keys == {"nv": "k"}
    assert settings.providers["nv"].base_url == "https://api.example/v1"
    assert "k" not in repr(settings).split("'")
    with pytest.raises(SettingsError, match=r"providers\.nv\.key_env: the environment variable NV_KEY is empty or not set"):
        load(path, {"NV_KEY": ""})


HOSTED = '[providers.{name}]\nkind = "openai"\nbase_url = "{url}"\nmodels = [{{id = "m"}}]\n{more}\n'


def test_a_key_may_be_a_secret_of_the_vault(tmp_path: Path) -> None:
    text = HOSTED.format(name="a", url="https://one.example/v1", more='key = "secret:nvidia-image"')
    text += HOSTED.format(name="b", url="http://127.0.0.1:9000/v1", more='key = "secret:nvidia-image"')
    text += HOSTED.format(name="c", url="https://two.example:8443", more='key = "secret:other"')
    settings = load(write(tmp_path, text), {})
    assert settings.providers["a"].key == SecretRef("nvidia-image")
    assert settings.hosts_of("nvidia-image") == ("one.example", "http://127.0.0.1:9000")
    assert (settings.hosts_of("other"), settings.hosts_of("none")) == (("two.example:8443",), ())
    assert settings.keys == {}


@pytest.mark.parametrize("key", ["nvapi-pasted", "secret:", "secret:nvapi-pasted", "secret:A B", "env:pasted", "secret:a/../b"])
def test_a_key_that_is_no_name_is_refused_without_repeating_it(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, HOSTED.format(name="a", url="https://x/v1", more=f'key = "{key}"'))
    with pytest.raises(SettingsError, match=r'providers\.a\.key: write it as "secret:NAME"') as caught:
        load(path, {})
    assert "pasted" not in str(caught.value)


def test_a_provider_names_its_key_once(tmp_path: Path) -> None:
    path = write(tmp_path, HOSTED.format(name="a", url="https://x/v1", more='key = "secret:a"\nkey_env = "A"'))
    with pytest.raises(SettingsError, match="key and key_env both name a key; keep one"):
        load(path, {"A": "k"})


def test_the_master_key_comes_from_the_environment_and_goes_no_further(tmp_path: Path) -> None:
    settings = load(None, {"SENSORIUM_MASTER_KEY": " k1\n", "LANG": "C"})
    assert settings.master_key == "k1"
    assert settings.child_environment == {"LANG": "C"}
    assert "k1" not in repr(settings) and "master_key" not in settings.model_dump()
    assert load(None, {"SENSORIUM_MASTER_KEY": ""}).master_key is None
    assert load(None, {"SENSORIUM_MASTER_KEY_FILE": "/k"}).vault.master_key_file == Path("/k")
    with pytest.raises(SettingsError, match="master_key: comes from the environment"):
        load(write(tmp_path, 'master_key = "x"'), {})


def test_managing_secrets_needs_neither_a_token_nor_other_keys(tmp_path: Path) -> None:
    text = '[server]\nhost = "0.0.0.0"\n' + HOSTED.format(name="a", url="https://x/v1", more='key_env = "NOT_SET"')
    assert load_for_vault(write(tmp_path, text), {}, data_dir=tmp_path).data_dir == tmp_path
    with pytest.raises(SettingsError, match=r"server\.prot: unknown key"):
        load_for_vault(write(tmp_path, "[server]\nprot = 1"), {})


@pytest.mark.parametrize("name", ["hub", "local"])
def test_a_provider_may_not_be_called_like_the_hub_itself(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f'[providers.{name}]\nkind = "openai"\nbase_url = "https://x/v1"\nmodels = [{{id = "m"}}]\n')
    with pytest.raises(SettingsError, match=f"providers.{name}: this name is the hub's own"):
        load(path, {})


@pytest.mark.parametrize("id", ["*", "a b", "a//b", "../a", ""])
def test_a_model_that_no_call_could_name(tmp_path: Path, id: str) -> None:
    path = write(tmp_path, f'[providers.x]\nkind = "openai"\nbase_url = "https://x/v1"\nmodels = [{{id = "{id}"}}]\n')
    with pytest.raises(SettingsError, match=r"providers\.x\.models\.0\.id"):
        load(path, {})


def test_a_token_is_taken_without_the_line_end_of_the_file_it_came_from() -> None:
    assert load(None, {"MAC_API_TOKEN": " t\n"}).token == "t"
    assert load(None, {"MAC_API_TOKEN": " \n"}).token is None


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MAC_API_TOKEN"):
        load(None, {"MAC_API_TOKEN": ""}, host="0.0.0.0")
    assert load(None, {"MAC_API_TOKEN": "t"}, host="0.0.0.0").token == "t"


def test_a_genai_provider_has_image_models_only(tmp_path: Path) -> None:
    path = write(tmp_path, '[providers.x]\nkind = "genai"\nbase_url = "https://x"\nmodels = [{id = "m", modality = "chat"}]\n')
    with pytest.raises(SettingsError, match='m must have modality "image"'):
        load(path, {})


@pytest.mark.parametrize("text", ["a = ", "\x00"])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(write(tmp_path, text), {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_the_example_loads_and_shows_every_option() -> None:
    settings = load(EXAMPLE, {"NVIDIA_API_KEY": "k"})
    assert settings.server == Server(data_dir=settings.data_dir)
    assert (settings.vault, settings.local) == (VaultSettings(), Local())
    text = EXAMPLE.read_text("utf-8")
    shown = set(re.findall(r"(?:^|[{,#] *)(\w+) = ", text, re.MULTILINE))
    options = {option for section in (Server, VaultSettings, Local, ProviderSettings, HostedModel) for option in section.model_fields}
    assert options - shown == set()


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("hub", False)]
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
