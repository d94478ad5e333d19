"""Configuration files and warm-up requests, parsed with TensorFlow Serving's protos.

TensorFlow Serving is not available as a Python package.
"""

import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from align_keras.export import serving_files
from align_keras.export.serving_files import (
    WARM_UP_FILE,
    WARM_UP_ROWS,
    write_serving_files,
)

MODELS = ("image", "text", "align")


@pytest.fixture(scope="module")
def export(folder, tmp_path_factory):
    export = tmp_path_factory.mktemp("serving") / "export"
    shutil.copytree(folder / "export", export)
    write_serving_files(export)
    return export


# === Configuration files ===


def message_classes():
    """Returns classes of messages that tensorflow-serving-api does not contain.

    The fields are those of servables/tensorflow/session_bundle_config.proto and
    config/monitoring_config.proto in tensorflow/serving 2.20.0.
    """
    wrapped = ".google.protobuf."
    fields = {
        "BatchingParameters": {
            "max_batch_size": (1, wrapped + "Int64Value"),
            "batch_timeout_micros": (2, wrapped + "Int64Value"),
            "max_enqueued_batches": (3, wrapped + "Int64Value"),
            "num_batch_threads": (4, wrapped + "Int64Value"),
            "thread_pool_name": (5, wrapped + "StringValue"),
            "allowed_batch_sizes": (6, "repeated int64"),
            "pad_variable_length_inputs": (7, "bool"),
            "enable_large_batch_splitting": (8, wrapped + "BoolValue"),
            "max_execution_batch_size": (9, wrapped + "Int64Value"),
        },
        "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
        "MonitoringConfig": {"prometheus_config": (1, ".align_test.PrometheusConfig")},
    }
    descriptor = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="align_test.proto", package="align_test", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, message_fields in fields.items():
        message = file.message_type.add(name=name)
        for field_name, (number, field_type) in message_fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = descriptor.LABEL_OPTIONAL
            if field_type.startswith("repeated "):
                field.label = descriptor.LABEL_REPEATED
            if field_type.startswith("."):
                field.type = descriptor.TYPE_MESSAGE
                field.type_name = field_type
            else:
                scalar = field_type.removeprefix("repeated ").upper()
                field.type = getattr(descriptor, f"TYPE_{scalar}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"align_test.{name}")
        )
        for name in fields
    }


def read_text_proto(path, message):
    """Parses a text proto and checks that a typo in any of its fields is refused."""
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"^ *(\w+)(?=:| \{)", text, re.MULTILINE))
    assert names
    for name in names:
        with pytest.raises(text_format.ParseError, match=f"{name}s"):
            text_format.Parse(
                re.sub(rf"\b{name}\b(?=:| \{{)", name + "s", text), message()
            )
    return text_format.Parse(text, message())


@pytest.mark.ci
def test_models_config_lists_all_models(export):
    proto = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    path = export / "serving" / "models.config"
    config = read_text_proto(path, proto.ModelServerConfig)
    models = config.model_config_list.config
    assert [model.name for model in models] == list(MODELS)
    for model in models:
        assert model.model_platform == "tensorflow"
        # The containers mount the export as /models.
        base = export / pathlib.PurePosixPath(model.base_path).relative_to("/models")
        assert (base / "1" / "saved_model.pb").is_file()


@pytest.mark.ci
def test_batching_configs_have_the_required_fields(export):
    message = message_classes()["BatchingParameters"]
    config = read_text_proto(export / "serving" / "batching.config", message)
    assert config.num_batch_threads.value >= 1
    for name in ("image", "text"):
        path = export / name / "1" / "batching_params.pbtxt"
        parameters = read_text_proto(path, message)
        assert parameters.max_batch_size.value >= 64
        assert parameters.max_enqueued_batches.value >= 1
        assert parameters.HasField("batch_timeout_micros")
        assert not parameters.allowed_batch_sizes
        assert not parameters.pad_variable_length_inputs
    # The server cannot batch requests whose inputs have different numbers of rows.
    assert not (export / "align" / "1" / "batching_params.pbtxt").exists()


@pytest.mark.ci
def test_monitoring_config_matches_the_annotations_of_pods(export):
    path = export / "serving" / "monitoring.config"
    message = message_classes()["MonitoringConfig"]
    config = read_text_proto(path, message).prometheus_config
    assert config.enable
    pods = list(yaml.safe_load_all((export / "serving/kubernetes.yaml").read_text()))
    annotations = pods[0]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == config.path


# === Warm-up requests ===


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.release) for name in ("image", "align")),
        pytest.param("text", marks=pytest.mark.ci),
    ],
)
def test_warm_up_requests_match_all_signatures(export, name):
    proto = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(export / name / "1" / WARM_UP_FILE)))
    assert 0 < len(records) <= 1000
    served = tf.saved_model.load(str(export / name / "1"))
    requests = []
    for record in records:
        log = proto.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == name
        signature = request.model_spec.signature_name
        inputs = {
            key: tf.constant(tf.make_ndarray(values))
            for key, values in request.inputs.items()
        }
        _, specs = served.signatures[signature].structured_input_signature
        assert set(inputs) == set(specs)
        for key, spec in specs.items():
            assert inputs[key].dtype == spec.dtype
            assert spec.shape.is_compatible_with(inputs[key].shape)
        outputs = served.signatures[signature](**inputs)
        (count,) = {len(rows) for key, rows in inputs.items() if key != "templates"}
        for key, values in outputs.items():
            assert len(values) == count
            assert np.isfinite(values.numpy().astype(float)).all()
            # The requests contain valid images, so that they warm up the decoders.
            assert key != "valid" or values.numpy().all()
        requests.append((signature, count))
    assert sorted(requests) == sorted(
        (signature, count) for signature in served.signatures for count in WARM_UP_ROWS
    )


@pytest.mark.ci
def test_a_missing_package_for_warm_up_requests_is_reported(
    folder, tmp_path, monkeypatch, capsys
):
    export = tmp_path / "export"
    shutil.copytree(folder / "export", export)
    monkeypatch.setattr(serving_files.importlib.util, "find_spec", lambda name: None)
    write_serving_files(export)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'align-keras[serving]'" in error
    assert (export / "serving" / "models.config").is_file()
    assert not list(export.glob("*/1/assets.extra"))
