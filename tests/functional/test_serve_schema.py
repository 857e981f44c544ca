"""Requests made from our own OpenAPI description: none of them is answered with a bug."""

import json
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.gateway import gateway

_EXAMPLES = 30
_QUICK = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# What a person may wait for, or a state: never a bug. Everything else from 500 on is one.
_KNOWN = {503}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with gateway(tmp_path_factory.mktemp("run")) as served, served.client() as http:
        yield http


@pytest.fixture(scope="module")
def schema(client: httpx.Client) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


def _answered(client: httpx.Client, case: schemathesis.Case) -> httpx.Response:
    """Send a case; most made-up bodies are meant for the model that is there."""
    made = case.body
    if isinstance(made, dict) and len(json.dumps(made)) % 4:
        made = {**made, "model": "echo"}
    body = {} if made is schemathesis.core.NOT_SET else {"json": made}
    path = case.formatted_path
    return client.request(case.method, path, params=dict(case.query or {}), **body)


def test_the_description_holds_every_route_of_the_api(
    schema: schemathesis.schemas.BaseSchema,
) -> None:
    assert {
        "/v1/chat/completions", "/v1/models", "/v1/models/{name}", "/tokenize",
        "/livez", "/readyz", "/startupz", "/metrics",
    } <= set(schema)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/chat/completions", "POST"),
        ("/tokenize", "POST"),
        ("/observe", "POST"),
        ("/v1/models/{name}", "GET"),
    ],
)
def test_no_request_is_a_bug(
    schema: schemathesis.schemas.BaseSchema, client: httpx.Client, path: str, method: str
) -> None:
    answers: set[int] = set()

    @_QUICK
    @given(case=schema[path][method].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        answer = _answered(client, case)
        answers.add(answer.status_code)
        assert answer.status_code < 500 or answer.status_code in _KNOWN, answer.text
        if answer.is_error:
            assert set(answer.json()) == {"error"}

    ask()
    assert answers <= {200, 400, 404, 503}, answers
    assert len(answers) > 0
