"""Runs `align-keras mcp` and calls its tools with the official client."""

import asyncio
import os
import sys

import numpy as np
import pytest

from align_keras import load_model
from align_keras.search.image_index import Index
from align_keras.search.query.query import Query
from tests.helpers.color_towers import GOLDEN, image_bytes

mcp = pytest.importorskip("mcp")

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(20):
        color = (number * 12, 255 - number * 9, number * 37 % 256)
        (root / f"{number:02}.png").write_bytes(image_bytes(color, (30 + number, 40)))
    # The last image is nearly the same as another one.
    (root / "red.png").write_bytes(image_bytes("red"))
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(image_bytes((254, 0, 0)))
    return Index.build(tmp_path_factory.mktemp("index") / "index", [root], str(GOLDEN))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "blue.jpg"
    path.write_bytes(image_bytes((10, 0, 250), format="JPEG"))
    return path


# Name of a call → tool and arguments. IMAGE is the path of an image.
CALLS = {
    "search": ("search", {"text": "red", "k": 3}),
    "composed": ("search", {"text": "red", "plus": ["blue"], "minus": ["green"]}),
    "where": ("search", {"text": "blue", "where": "width > 40", "k": 100}),
    "by id": ("similar", {"id": 4, "k": 5}),
    "by path": ("similar", {"path": "IMAGE", "where": "width < 40", "k": 5}),
    "tag": ("tag", {"path": "IMAGE", "labels": ["red", "blue", "green"]}),
    "tag of id": ("tag", {"id": 4, "labels": ["green"]}),
    "describe": ("describe_index", {}),
}
# The error for a file that exists is that for a missing file.
UNREADABLE = "`path` must be the path of an image that the server can read"
# Tool and arguments of a wrong call, and its error.
MISTAKES = [
    ("search", {"text": " "}, "not blank"),
    ("search", {"text": "red", "k": 0}, "`k`"),
    ("search", {"text": "red", "where": "widht > 1"}, "width"),
    ("similar", {}, "`id` or `path`"),
    ("similar", {"id": 2**63}, "`id`"),
    ("search", {"text": "red", "plus": ["a"] * 33}, "plus"),
    ("similar", {"path": "none.png"}, UNREADABLE),
    ("similar", {"path": __file__}, UNREADABLE),
    ("similar", {"path": r"\\host\share\a.png"}, "local file"),
    ("similar", {"path": "http://127.0.0.1/a.png"}, "local file"),
    ("tag", {"id": 1, "labels": ["red", "red"]}, "`labels`"),
    ("tag", {"id": 1}, "labels"),
]


@pytest.fixture(scope="module")
def results(index, image):
    """Returns the tools of the server, the results of `CALLS` and the errors."""

    async def call_all():
        command = mcp.StdioServerParameters(
            command=sys.executable,
            args=["-m", "align_keras.cli.main", "mcp", "--index", str(index.folder)],
            env=dict(os.environ),
        )
        answers, errors = {}, []
        async with mcp.Client(command, read_timeout_seconds=60) as client:
            tools = (await client.list_tools()).tools
            for name, (tool, arguments) in CALLS.items():
                if arguments.get("path") == "IMAGE":
                    arguments = {**arguments, "path": str(image)}
                answer = await client.call_tool(tool, arguments)
                assert not answer.is_error, answer.content
                answers[name] = answer.structured_content
            for tool, arguments, _ in MISTAKES:
                answer = await client.call_tool(tool, arguments)
                errors.append((answer.is_error, answer.content[0].text))
        return tools, answers, errors

    return asyncio.run(call_all())


def test_the_tools_are_described(results):
    tools = {tool.name: tool for tool in results[0]}
    assert sorted(tools) == ["describe_index", "search", "similar", "tag"]
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    assert "images that match" in tools["search"].description
    assert tools["search"].input_schema["required"] == ["text"]
    assert list(tools["similar"].input_schema["properties"]) == [
        "id",
        "path",
        "where",
        "k",
    ]


@pytest.mark.parametrize(
    "name, query",
    [
        ("search", Query("red", k=3)),
        ("composed", Query("red", plus="blue", minus="green")),
        ("where", Query("blue", where="width > 40", k=100)),
        ("by id", Query(image=4, k=5)),
        ("by path", Query(image="IMAGE", where="width < 40", k=5)),
    ],
)
def test_the_hits_are_those_of_python(results, index, image, name, query):
    if query.image == "IMAGE":
        query.image = str(image)
    hits = results[1][name]["hits"]
    expected = index.query(query)
    assert len(hits) == len(expected) > 0
    for hit, other in zip(hits, expected, strict=True):
        assert (hit["id"], hit["rank"]) == (other.id, other.rank)
        assert hit["score"] == pytest.approx(other.score, abs=1e-5)
        assert hit["columns"] == other.columns
        assert hit["relevance"] == other.relevance
        assert hit["path"].split("/")[-1][:3] == other.path.split("/")[-1][:3]


def test_paths_that_are_not_utf8_have_replacement_characters(results):
    names = [
        path.split("/")[-1]
        for hit in results[1]["search"]["hits"]
        for path in (hit["path"], *hit["duplicates"])
    ]
    assert "caf\ufffd.png" in names


def test_labels_are_ranked_by_cosine(results, index, image):
    model = load_model(str(GOLDEN))
    scores = (
        model.encode_texts(["red", "blue", "green"]) @ model.encode_images([image])[0]
    )
    assert [entry["label"] for entry in results[1]["tag"]["labels"]][0] == "blue"
    ranked = [entry["score"] for entry in results[1]["tag"]["labels"]]
    np.testing.assert_allclose(ranked, sorted(scores, reverse=True), atol=1e-5)
    (entry,) = results[1]["tag of id"]["labels"]
    expected = model.encode_texts(["green"])[0] @ index.embedding(4)
    assert entry["score"] == pytest.approx(float(expected), abs=1e-5)


def test_the_index_is_described(results, index):
    description = results[1]["describe"]
    assert description["images"] == 22 and description["model"] == str(GOLDEN)
    assert description["columns"] == index.store.tables.columns
    (source,) = index.store.sources()
    assert description["sources"] == [os.fsdecode(source)]


def test_mistakes_are_explained_to_the_agent(results):
    for (is_error, text), (tool, arguments, message) in zip(
        results[2], MISTAKES, strict=True
    ):
        assert is_error and message in text, (tool, arguments)
