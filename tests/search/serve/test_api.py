"""OpenAPI document and `/v1/embeddings` of the search server."""

import base64
import json

import numpy as np
import pytest

import align_keras
from align_keras import load_model
from align_keras.search.image_index import Index
from align_keras.search.query.query import MAX_TEXT_LENGTH, MAX_TEXTS
from align_keras.search.serve import search_requests
from align_keras.search.serve import server as server_module
from align_keras.search.serve.embeddings_api import MAX_IMAGES, MAX_INPUTS
from tests.helpers.color_towers import GOLDEN, image_bytes
from tests.helpers.serving import request, running_app

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for color in ("red", "green", "blue"):
        (root / f"{color}.png").write_bytes(image_bytes(color))
    index = Index.build(tmp_path_factory.mktemp("index") / "index", [root], str(GOLDEN))
    with running_app(index.folder) as port:
        yield port


@pytest.fixture(scope="module")
def document(port):
    return request(port, "/openapi.json")[2]


def data_url(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# === OpenAPI ===


def test_the_document_is_valid(document):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)
    assert document["info"]["version"] == align_keras.__version__


def test_the_document_has_all_paths_and_limits(document):
    undocumented = {"/", "/static/{name}"}
    routes = {
        path: {method.lower() for method in methods}
        for path, methods in server_module.PATHS.items()
        if path not in undocumented
    }
    assert routes == {
        path: set(operations) - {"parameters"}
        for path, operations in document["paths"].items()
    }
    parameters = document["components"]["parameters"]
    assert {entry["name"] for entry in parameters.values()} == {
        *search_requests.SEARCH_PARAMETERS,
        "index",
        "k",
        "offset",
        "id",
    }
    k, offset = parameters["k"]["schema"], parameters["offset"]["schema"]
    assert k["maximum"] == search_requests.MAX_PAGE_HITS
    assert k["default"] == search_requests.PAGE_HITS
    assert offset["maximum"] == search_requests.MAX_HITS
    texts = parameters["text"]["schema"]
    assert texts["maxItems"] == parameters["like"]["schema"]["maxItems"] == MAX_TEXTS
    schemas = document["components"]["schemas"]
    inputs = schemas["EmbeddingRequest"]["properties"]
    assert inputs["input"]["oneOf"][1]["maxItems"] == MAX_INPUTS
    assert schemas["EmbeddingInput"]["anyOf"][0]["maxLength"] == MAX_TEXT_LENGTH
    assert inputs["dimensions"]["maximum"] == 4


# === Embeddings ===


@pytest.fixture(scope="module")
def client(port):
    openai = pytest.importorskip("openai")
    address = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_official_client_embeds_texts_and_images(client, encoding):
    contents = [image_bytes("red"), image_bytes("blue", format="JPEG")]
    inputs = ["red", data_url(contents[0]), "blue or green", data_url(contents[1], "x")]
    response = client.embeddings.create(
        model=str(GOLDEN), input=inputs, encoding_format=encoding
    )
    assert response.model == str(GOLDEN)
    assert [entry.index for entry in response.data] == [0, 1, 2, 3]
    embeddings = [entry.embedding for entry in response.data]
    if encoding == "base64":
        embeddings = [np.frombuffer(base64.b64decode(e), "<f4") for e in embeddings]
    model = load_model(str(GOLDEN))
    # [CLS], [SEP] and the words.
    assert response.usage.prompt_tokens == response.usage.total_tokens == 3 + 5
    expected = np.empty((4, 4))
    expected[::2] = model.encode_texts(["red", "blue or green"])
    expected[1::2] = model.encode_images(contents)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_the_official_client_truncates_and_reports_errors(client):
    import openai

    response = client.embeddings.create(model=str(GOLDEN), input="red", dimensions=2)
    (embedding,) = [entry.embedding for entry in response.data]
    assert len(embedding) == 2 and np.linalg.norm(embedding) == pytest.approx(1)
    with pytest.raises(openai.BadRequestError, match="1 to 4") as error:
        client.embeddings.create(model=str(GOLDEN), input="red", dimensions=5)
    assert error.value.type == "invalid_request_error"
    assert [entry.id for entry in client.models.list()] == [str(GOLDEN)]
    with pytest.raises(openai.NotFoundError, match="`model` must be"):
        client.embeddings.create(model="text-embedding-3-small", input="red")


@pytest.mark.parametrize(
    "body, message",
    [
        (b"[" * 100_000, "JSON"),
        ({"input": []}, "`input`"),
        ({"input": ["red", " "]}, "`input`"),
        ({"input": "data:image/png;base64,%"}, "base64"),
        ({"input": data_url(b"no image")}, "`image`"),
        ({"input": [data_url(b"x")] * (MAX_IMAGES + 1)}, "images"),
        ({"input": ["red", "a" * (MAX_TEXT_LENGTH + 1)]}, "characters"),
        ({"input": "red", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "red", "dimensions": 0}, "dimensions"),
    ],
)
def test_invalid_bodies_are_refused(port, body, message):
    content = body if isinstance(body, bytes) else json.dumps(body)
    status, _, answer = request(port, "/v1/embeddings", content)
    assert status == 400 and message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_texts_of_other_urls_are_texts(port):
    body = json.dumps({"input": ["data: red", "\ud800 red"]})
    status, _, answer = request(port, "/v1/embeddings", body)
    red, _ = load_model(str(GOLDEN)).encode_texts(["red", "red"])
    assert status == 200 and np.allclose(answer["data"][0]["embedding"], red)
