"""The clients that an export carries, against services of the documented shape."""

import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from align_keras.export.serving_files import write_serving_files
from tests.export.exported import CAPTIONS, TOLERANCE, pictures

grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")
# These need tensorflow-serving-api.
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


def client(export, name):
    """The module that lies in the export."""
    path = export / "serving" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"exported_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_answers(model, encode_images, encode_texts, similarity):
    """Compares a client's three functions with the model."""
    files = [*pictures(), b"<html>", b""]
    count = len(files) - 2
    images, texts = model.encode_images(files[:count]), model.encode_texts(CAPTIONS)
    valid = [True] * count + [False, False]
    embeddings, flags = encode_images(files)
    assert list(flags) == valid
    np.testing.assert_allclose(embeddings[:count], images, rtol=0, atol=TOLERANCE)
    cosines, flags = similarity(files, CAPTIONS)
    assert list(flags) == valid
    expected = images @ texts.T
    assert np.ptp(expected) > 1e-2
    np.testing.assert_allclose(cosines[:count], expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(encode_texts(CAPTIONS), texts, rtol=0, atol=TOLERANCE)


def test_grpc(model, export, grpc_server):
    own = client(export, "client_grpc").Client(grpc_server)
    check_answers(model, own.encode_images, own.encode_texts, own.similarity)
    width = model.image_encoder.output_shape[-1]
    assert own.encode_images([])[0].shape == (0, width)
    assert own.encode_texts([]).shape == (0, width)


def test_rest(model, export, rest_server):
    own = client(export, "client_rest")
    check_answers(
        model,
        lambda files: own.encode_images(rest_server, files),
        lambda captions: own.encode_texts(rest_server, captions),
        lambda files, captions: own.similarity(rest_server, files, captions),
    )


def test_grpc_errors(export, grpc_server):
    own = client(export, "client_grpc").Client(grpc_server)
    for arguments, inputs, code in (
        (("nothing", "encode_text"), {"captions": ["a"]}, "NOT_FOUND"),
        (("text", "nothing"), {"captions": ["a"]}, "INVALID_ARGUMENT"),
        (("text", "encode_text"), {"captions": [[1.0]]}, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            own.predict(*arguments, **inputs)
        assert error.value.code().name == code


def test_rest_errors(export, rest_server):
    own = client(export, "client_rest")
    for model, signature, inputs, message in (
        ("nothing", "encode_text", {"captions": ["a"]}, "404: .*Servable not found"),
        ("text", "nothing", {"captions": ["a"]}, "400: .*nothing.* not found"),
        ("text", "encode_text", {"captions": [1.0]}, "400: "),
    ):
        with pytest.raises(RuntimeError, match=f"(?s){message}"):
            own.predict(rest_server, model, signature, inputs)


class _Page(http.server.BaseHTTPRequestHandler):
    """Answers as the path's first folder says."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.split("/")[1]
        if kind != "noise":
            self.send_response(200)
            self.end_headers()
        self.wfile.write(b'{"a": 1}' if kind == "json" else b"<html>\xff\r\n\r\n")

    def log_message(self, *arguments):
        pass


def test_rest_from_what_is_no_such_server(export):
    own = client(export, "client_rest")
    with http.server.HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name, message in (
            ("localhost", "server must be such as http://localhost:8501, received loc"),
            ("localhost:8501", "server must be|unknown url type"),
            ("http://127.0.0.1:abc", "server must be such as .* received http"),
            (f"{address}/page", "isn't TensorFlow Serving: it answers b'<html>"),
            (f"{address}/json", "isn't TensorFlow Serving"),
            (f"{address}/noise", "no HTTP from"),
        ):
            # Of those that the command prints in one line.
            with pytest.raises((RuntimeError, OSError), match=message):
                own.encode_texts(name, ["a"])
        server.shutdown()


@pytest.mark.parametrize("name", ["client_rest", "client_grpc"])
def test_commands(model, export, grpc_server, rest_server, tmp_path, name):
    """As the shell runs them: without this package, REST without any other."""
    (tmp_path / "a.jpg").write_bytes(pictures()[2])
    (tmp_path / "b.html").write_text("<html>")
    captions = ["a red bicycle", "blue", "Crème 漢字"]
    server = rest_server if name == "client_rest" else grpc_server
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
    cosines = model.encode_texts(captions) @ model.encode_images(pictures()[2:3])[0]
    best = sorted(zip(cosines, captions, strict=True), reverse=True)
    assert result.stdout.splitlines() == [
        "a.jpg",
        *(f"  {cosine:7.4f}  {caption}" for cosine, caption in best),
        "b.html: not an image",
    ]
    result = subprocess.run(
        [*command, "a", "--server", server.rpartition(":")[0] + ":9"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 1
    # One line, and no traceback.
    assert result.stderr.splitlines()[-1].startswith(f"{name}.py: ")
    assert "Traceback" not in result.stderr
