"""The settings file, the flags over it, and the environment: everything wrong is told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.exchange import is_loopback
from sensorium.options import AudioSettings, HostedModel, Local, ProviderSettings, SecretRef, Server, VaultSettings
from sensorium.options_engines import EngineModel, EngineSettings
from sensorium.options_queue import Jobs
from sensorium.settings import load, load_for_vault

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
        models = [{id = ".."}]
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


def test_a_key_in_the_place_of_a_variables_name_is_refused_without_repeating_it(tmp_path: Path) -> None:
    path = write(tmp_path, HOSTED.format(name="a", url="https://x/v1", more='key_env = "sk-pasted"'))
    with pytest.raises(SettingsError, match=r"providers\.a\.key_env: must be the name of an environment variable") as caught:
        load(path, {})
    assert "pasted" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[router.chat]\nurl = "https://x/v1"\ntimeout_s = "soon"\n',
            "router.chat.timeout_s: .* a valid number.*; it is 'soon'$",
        ),
        ("[server]\nport = 70000\n", "server.port: Input should be less than or equal to 65535; it is 70000$"),
        ('[router.chat]\nurl = "nvapi-pasted"\n', "router.chat.url: must look like https://host/v1, without user, query or fragment$"),
        ('[router.chat]\nurl = "https://x/v1"\nkeys = "pasted"\n', "router.chat.keys: unknown key$"),
    ],
)
def test_a_problem_names_the_setting_the_value_and_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(write(tmp_path, text), {})


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
    assert (settings.vault, settings.local, settings.jobs) == (VaultSettings(), Local(), Jobs())
    text = EXAMPLE.read_text("utf-8")
    shown = set(re.findall(r"(?:^|[{,#] *)(\w+) = ", text, re.MULTILINE))
    sections = (Server, VaultSettings, Local, Jobs, AudioSettings, ProviderSettings, HostedModel, EngineSettings, EngineModel)
    options = {option for section in sections for option in section.model_fields}
    assert options - shown == set()


ROUTER = '[router.{name}]\nurl = "{url}"\n{more}\n'


def test_each_modality_has_a_url_and_a_key_of_its_own(tmp_path: Path) -> None:
    text = "".join(ROUTER.format(name=name, url=f"https://{name}.example/v1/", more="") for name in ("image", "audio", "video", "chat"))
    settings = load(write(tmp_path, text), {})
    keys = {name: table.key for name, table in settings.router.given.items()}
    assert keys == {
        "chat": SecretRef("nvidia-upstream"),
        "image": SecretRef("nvidia-image"),
        "audio": SecretRef("nvidia-audio"),
        "video": SecretRef("nvidia-video"),
    }
    assert settings.router.given["image"].url == "https://image.example/v1"
    assert settings.hosts_of("nvidia-image") == ("image.example",)
    assert settings.secrets == ("nvidia-upstream", "nvidia-image", "nvidia-audio", "nvidia-video")


def test_a_key_of_a_modality_goes_to_all_addresses_of_that_modality(tmp_path: Path) -> None:
    more = 'asr_url = "https://b.example/v1/audio"\nstatus_url = "https://c.example/v1/status"'
    settings = load(write(tmp_path, ROUTER.format(name="audio", url="https://a.example/v1/audio", more=more)), {})
    assert settings.hosts_of("nvidia-audio") == ("a.example", "b.example", "c.example")


def test_no_key_has_to_be_said(tmp_path: Path) -> None:
    settings = load(write(tmp_path, ROUTER.format(name="image", url="http://127.0.0.1:8000/v1", more='key = "none"')), {})
    assert settings.router.given["image"].key is None
    with pytest.raises(SettingsError, match=r"router\.image\.key: NVIDIA answers nobody without a key"):
        load(write(tmp_path, ROUTER.format(name="image", url="https://ai.api.nvidia.com/v1/genai", more='key = "none"')), {})


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("image", 'kye = "secret:x"', "router.image.kye: unknown key"),
        ("pictures", "", "router.pictures: unknown key"),
        ("image", "per_minute = 0", "router.image.per_minute"),
        ("image", 'models = ["../x"]', "router.image.models.0.id"),
        ("image", 'key = "nvapi-pasted"', "router.image.key: write it as"),
        ("video", 'dialect = "openai"', "router.video.dialect: only NVIDIA's"),
        ("audio", 'models = ["x"]', "router.audio.models: speech services are called by path"),
    ],
)
def test_a_modality_that_cannot_be(tmp_path: Path, name: str, more: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, ROUTER.format(name=name, url="https://x.example/v1", more=more)), {})
    assert told in str(caught.value.problems)
    assert "pasted" not in str(caught.value.problems)


PROVIDER = "[providers.p]\n{}\n"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('kind = "fal"', "providers.p.models: name at least one"),
        ('kind = "fal"\nmodels = [{id = "m", modality = "speech"}]', 'm must have modality "chat", "image" or "video"'),
        ('kind = "nvidia"\nmodels = [{id = "m", modality = "video"}]', "providers.p.models: m makes videos; set router.video"),
        ('kind = "openai"\nmodels = ["m"]', 'providers.p.base_url: is missing, for kind is "openai"'),
        ('kind = "openai"\nbase_url = "https://x"', "providers.p.models: name at least one"),
        ('kind = "engine"\nbase_url = "https://x"\nai_url = "https://y"\nmodels = ["m"]', "providers.p.ai_url: is for kind"),
        ('kind = "nvidia"\nkey = "none"', "providers.p.key: NVIDIA answers nobody without a key"),
        ('kind = "nvidia"\nmodels = [{id = "m", modality = "speech"}]', "providers.p.models: m speaks or listens; set router.audio"),
        ('kind = "openai"\nbase_url = "https://x"\nprivate = true\nmodels = ["m"]', "providers.p.private: is for kind"),
        ('kind = "anthropic"\nkey = "none"', "providers.p.key: Anthropic answers nobody without a key"),
        ('kind = "anthropic"\nbase_url = "https://api.anthropic.com/v1"', "providers.p.key: Anthropic answers nobody without a key"),
        ('kind = "anthropic"\nmodels = [{id = "m", modality = "image"}]', "providers.p.models: m must be a chat model"),
        ('kind = "openai"\nbase_url = "https://[x"\nmodels = ["m"]', "providers.p.base_url: must look like"),
    ],
)
def test_a_provider_that_cannot_be(tmp_path: Path, table: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, PROVIDER.format(table)), {})
    assert told in "\n".join(caught.value.problems)


def test_nvidia_needs_its_kind_only(tmp_path: Path) -> None:
    settings = load(write(tmp_path, PROVIDER.format('kind = "nvidia"')), {})
    table = settings.providers["p"]
    assert (table.key, table.per_minute) == (SecretRef("nvidia-upstream"), 35)
    assert settings.hosts_of("nvidia-upstream") == ("integrate.api.nvidia.com", "ai.api.nvidia.com")
    own = load(write(tmp_path, PROVIDER.format('kind = "nvidia"\nkey_env = "K"\nper_minute = 5\nmodels = ["m"]')), {"K": "k"})
    assert (own.providers["p"].key, own.providers["p"].per_minute, own.providers["p"].models[0].id) == (None, 5, "m")


def test_anthropic_needs_its_kind_only_and_another_address_no_key(tmp_path: Path) -> None:
    settings = load(write(tmp_path, PROVIDER.format('kind = "anthropic"')), {})
    assert settings.providers["p"].key == SecretRef("anthropic")
    assert settings.hosts_of("anthropic") == ("api.anthropic.com",)
    own = load(write(tmp_path, PROVIDER.format('kind = "anthropic"\nbase_url = "http://127.0.0.1:8000/v1"')), {})
    assert (own.providers["p"].key, own.providers["p"].urls) == (None, ("http://127.0.0.1:8000/v1",))


def test_fal_needs_its_kind_and_models(tmp_path: Path) -> None:
    settings = load(write(tmp_path, PROVIDER.format('kind = "fal"\nmodels = [{id = "fal-ai/ltx-video", modality = "video"}]')), {})
    assert (settings.providers["p"].key, settings.hosts_of("fal")) == (SecretRef("fal"), ("queue.fal.run",))


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("hub", False)]
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_an_order_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"router\.order: .*'local_first'"):
        load(write(tmp_path, '[router]\norder = "nearest"'), {})


CALLERS = """
[callers.alice]
token_env = "ALICE"
webhook_secret_env = "ALICE_HOOK"
[callers."team-2.x"]
token_env = "TEAM"
weight = 2
max_waiting = 10
"""
HOOK = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GIVEN = {"ALICE": " a1:s\n", "ALICE_HOOK": f"{HOOK}\n", "TEAM": "t2:s", "LANG": "C"}


def test_callers_have_tokens_of_their_own_which_go_no_further(tmp_path: Path) -> None:
    settings = load(write(tmp_path, CALLERS), GIVEN)
    assert settings.caller_tokens == {"alice": "a1:s", "team-2.x": "t2:s"}
    assert settings.webhook_secrets == {"alice": HOOK}
    assert settings.child_environment == {"LANG": "C"}
    assert not any(text in repr(settings) + str(settings.model_dump()) for text in ("a1:s", "t2:s", "whsec_"))
    for name in ("caller_tokens", "webhook_secrets"):
        with pytest.raises(SettingsError, match=f"{name}: comes from the environment"):
            load(write(tmp_path, f'{name} = {{alice = "x"}}'), {})


def test_tokens_of_callers_are_enough_for_other_machines(tmp_path: Path) -> None:
    assert load(write(tmp_path, CALLERS), GIVEN, host="0.0.0.0").token is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ALICE": ""}, "callers.alice.token_env: the environment variable ALICE is empty or not set"),
        ({"ALICE_HOOK": " "}, "callers.alice.webhook_secret_env: the environment variable ALICE_HOOK is empty or not set"),
        ({"TEAM": "a1:s"}, "callers.team-2.x.token_env: its token is that of callers.alice; each needs its own"),
        ({"MAC_API_TOKEN": "t2:s"}, "callers.team-2.x.token_env: its token is that of MAC_API_TOKEN; each needs its own"),
        ({"TEAM": "t2\u00e9"}, "callers.team-2.x.token_env: its token holds characters that no header can carry"),
        (
            {"ALICE_HOOK": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
            "callers.alice.webhook_secret_env: must hold whsec_ and 24 to 64 bytes in base64",
        ),
        ({"ALICE_HOOK": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2Laa"}, "callers.alice.webhook_secret_env: must hold whsec_"),
        ({"ALICE_HOOK": "whsec_cGFzdGVk"}, "callers.alice.webhook_secret_env: must hold whsec_"),
        ({"ALICE_HOOK": "whsec_past\u00e9d"}, "callers.alice.webhook_secret_env: must hold whsec_"),
    ],
)
def test_a_callers_token_that_cannot_be_is_not_repeated(tmp_path: Path, change: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, CALLERS), GIVEN | change)
    assert [problem for problem in caught.value.problems if told in problem] == caught.value.problems
    assert not any(text in str(caught.value) for text in change.values() if text.strip())


@pytest.mark.parametrize("name", ["token", "local", "Alice", "a b", "", "a" * 65, "\u00e9"])
def test_a_name_that_no_caller_can_have(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f'[callers."{name}"]\ntoken_env = "T"\n')
    with pytest.raises(SettingsError, match=rf"callers\.{name[:64]}.*: (this name is the hub's own|a caller's name has 1 to 64)"):
        load(path, {"T": "t"})
