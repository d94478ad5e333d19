"""REST and gRPC clients of an export with servers that have the documented APIs."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest

from align_keras.export.serving_files import write_serving_files
from tests.export.export_inputs import CAPTIONS, TOLERANCE, sample_image_files

grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")
# This module needs tensorflow-serving-api.
from tests.export.prediction_service import (  # noqa: E402
    Models,
    grpc_service,
    rest_service,
)

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def export(folder, tmp_path_factory):
    export = tmp_path_factory.mktemp("clients") / "export"
    shutil.copytree(folder / "export", export)
    write_serving_files(export)
    return export


@pytest.fixture(scope="module")
def models(export):
    return Models(export)


@pytest.fixture(scope="module")
def grpc_server(models):
    with grpc_service(models) as address:
        yield address


@pytest.fixture(scope="module")
def rest_server(models):
    with rest_service(models) as address:
        yield address


def load_client(export, name):
    """Returns the client module in the export."""
    path = export / "serving" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"exported_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_functions(model, encode_images, encode_texts, similarity):
    """Compares the three functions of a client with the model."""
    files = [*sample_image_files(), b"<html>", b""]
    count = len(files) - 2
    images = model.encode_images(files[:count])
    texts = model.encode_texts(CAPTIONS)
    valid = [True] * count + [False, False]
    embeddings, is_image = encode_images(files)
    assert list(is_image) == valid
    np.testing.assert_allclose(embeddings[:count], images, rtol=0, atol=TOLERANCE)
    cosines, is_image = similarity(files, CAPTIONS)
    assert list(is_image) == valid
    expected = images @ texts.T
    assert np.ptp(expected) > 1e-2
    np.testing.assert_allclose(cosines[:count], expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(encode_texts(CAPTIONS), texts, rtol=0, atol=TOLERANCE)


def test_the_grpc_client_returns_embeddings_and_similarities(
    model, export, grpc_server
):
    client = load_client(export, "client_grpc").Client(grpc_server)
    check_functions(model, client.encode_images, client.encode_texts, client.similarity)
    dimension = model.image_encoder.output_shape[-1]
    assert client.encode_images([])[0].shape == (0, dimension)
    assert client.encode_texts([]).shape == (0, dimension)


def test_the_rest_client_returns_embeddings_and_similarities(
    model, export, rest_server
):
    client = load_client(export, "client_rest")
    check_functions(
        model,
        lambda files: client.encode_images(rest_server, files),
        lambda captions: client.encode_texts(rest_server, captions),
        lambda files, captions: client.similarity(rest_server, files, captions),
    )


def test_the_grpc_client_raises_errors_of_the_server(export, grpc_server):
    client = load_client(export, "client_grpc").Client(grpc_server)
    for arguments, inputs, code in (
        (("nothing", "encode_text"), {"captions": ["a"]}, "NOT_FOUND"),
        (("text", "nothing"), {"captions": ["a"]}, "INVALID_ARGUMENT"),
        (("text", "encode_text"), {"captions": [[1.0]]}, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            client.predict(*arguments, **inputs)
        assert error.value.code().name == code


def test_the_rest_client_raises_errors_of_the_server(export, rest_server):
    client = load_client(export, "client_rest")
    for model, signature, inputs, message in (
        ("nothing", "encode_text", {"captions": ["a"]}, "404: .*Servable not found"),
        ("text", "nothing", {"captions": ["a"]}, "400: .*nothing.* not found"),
        ("text", "encode_text", {"captions": [1.0]}, "400: "),
    ):
        with pytest.raises(RuntimeError, match=f"(?s){message}"):
            client.predict(rest_server, model, signature, inputs)


@pytest.mark.parametrize(
    "name", ["client_rest", pytest.param("client_grpc", marks=pytest.mark.release)]
)
def test_clients_run_as_programs(
    model, export, grpc_server, rest_server, tmp_path, name
):
    (tmp_path / "a.jpg").write_bytes(sample_image_files()[2])
    (tmp_path / "b.html").write_text("<html>")
    captions = ["a red bicycle", "blue", "Crème 漢字"]
    server = rest_server if name == "client_rest" else grpc_server
    # The programs run without this package, and the REST client without any packages.
    flags = ["-I", "-S"] if name == "client_rest" else ["-I"]
    script = export / "serving" / f"{name}.py"
    command = [sys.executable, *flags, script, "a.jpg", "b.html", "--captions"]
    result = subprocess.run(
        [*command, *captions, "--server", server],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    image_embedding = model.encode_images(sample_image_files()[2:3])[0]
    cosines = model.encode_texts(captions) @ image_embedding
    ranking = sorted(zip(cosines, captions, strict=True), reverse=True)
    image_name, *hits, other_name = result.stdout.splitlines()
    assert (image_name, other_name) == ("a.jpg", "b.html: not an image")
    printed = [hit.split(maxsplit=1) for hit in hits]
    assert [caption for _, caption in printed] == [caption for _, caption in ranking]
    # The programs round to four decimals, and the server's float32 sums differ by 1e-6.
    np.testing.assert_allclose(
        [float(cosine) for cosine, _ in printed],
        [cosine for cosine, _ in ranking],
        rtol=0,
        atol=6e-5,
    )
    result = subprocess.run(
        [*command, "a", "--server", server.rpartition(":")[0] + ":9"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 1
    # The program prints one line instead of a traceback.
    assert result.stderr.splitlines()[-1].startswith(f"{name}.py: ")
    assert "Traceback" not in result.stderr
