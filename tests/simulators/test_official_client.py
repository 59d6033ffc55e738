"""The official OpenAI package against the simulated OpenAI-shaped host, as hubs and users call the real one."""

from __future__ import annotations

import openai
import pytest

from tests.simulators.site import KEY, Site

MODEL = "meta/llama-3.1-8b-instruct"


@pytest.fixture
def client(site: Site) -> openai.OpenAI:
    return openai.OpenAI(api_key=KEY, base_url=f"http://{site.address}/integrate.api.nvidia.com/v1", max_retries=0)


def test_chat_streams_embeddings_and_models(client: openai.OpenAI) -> None:
    with client:
        whole = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
        assert (whole.choices[0].message.content, whole.usage and whole.usage.total_tokens) == ('You wrote: "hello"', 4)
        chunks = list(client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}], stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == 'You wrote: "hello"'
        extra = {"input_type": "query"}
        vector = client.embeddings.create(model="nvidia/nv-embedqa-e5-v5", input="a", extra_body=extra).data[0].embedding
        assert (len(vector), round(sum(x * x for x in vector), 5)) == (1024, 1)
        assert MODEL in {model.id for model in client.models.list()}
        assert client.responses.create(model=MODEL, input="hello").output_text == 'You wrote: "hello"'


def test_its_errors_are_what_users_report(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.NotFoundError, match="404"):
            client.chat.completions.create(model="nobody/nothing", messages=[{"role": "user", "content": "hello"}])
        with pytest.raises(openai.RateLimitError, match="429"):
            client.chat.completions.create(model="simulated/429", messages=[{"role": "user", "content": "hello"}])
        with pytest.raises(openai.PermissionDeniedError, match="403"):
            client.with_options(api_key="nvapi-wrong").embeddings.create(model="baai/bge-m3", input="a")
