"""Servers with the gRPC and REST APIs of TensorFlow Serving for tests of the clients.

TensorFlow Serving is not available as a Python package.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import re
import threading

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Models:
    """SavedModels of an export by their names."""

    def __init__(self, export):
        self.models = {
            path.name: tf.saved_model.load(str(path / "1"))
            for path in export.iterdir()
            if (path / "1" / "saved_model.pb").is_file()
        }

    def predict(self, name, signature, inputs):
        """Calls a signature.

        Raises:
            LookupError: if there is no such model.
            ValueError: if there is no such signature or the inputs are wrong.
        """
        if name not in self.models:
            raise LookupError(f"Servable not found for request: Latest({name})")
        signatures = self.models[name].signatures
        signature = signature or "serving_default"
        if signature not in signatures:
            raise ValueError(f'Serving signature name: "{signature}" not found')
        _, specs = signatures[signature].structured_input_signature
        if set(inputs) != set(specs):
            raise ValueError(f"inputs must be {sorted(specs)}, not {sorted(inputs)}")
        try:
            tensors = {
                key: tf.constant(inputs[key], spec.dtype) for key, spec in specs.items()
            }
            return signatures[signature](**tensors)
        except (TypeError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(str(error)) from error


@contextlib.contextmanager
def grpc_service(models):
    """Runs the service of tensorflow/serving's apis/prediction_service.proto.

    Yields:
        Address of the service.
    """

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            inputs = {
                key: tf.make_ndarray(values) for key, values in request.inputs.items()
            }
            try:
                outputs = models.predict(spec.name, spec.signature_name, inputs)
            except LookupError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            response = predict_pb2.PredictResponse(model_spec=spec)
            for key, values in outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(values))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Service(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.contextmanager
def rest_service(models):
    """Runs a server with the REST API of tensorflow/serving's g3doc/api_rest.md.

    It supports only the columnar format.

    Yields:
        Address of the server.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, body = 200, {"outputs": self.outputs(json.loads(content))}
            except LookupError as error:
                status, body = 404, {"error": str(error)}
            except ValueError as error:
                status, body = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body, indent=4).encode())

        def outputs(self, body):
            match = re.fullmatch(r"/v1/models/([^/:]+):predict", self.path)
            if match is None:
                raise ValueError(f"Malformed request: POST {self.path}")
            tensors = models.predict(
                match[1], body.get("signature_name"), decode(body["inputs"])
            )
            outputs = {
                name: tensor.numpy().tolist() for name, tensor in tensors.items()
            }
            # A single output is returned without its name.
            return outputs if len(outputs) > 1 else next(iter(outputs.values()))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def decode(value):
    """Returns a JSON value in which bytes replace objects with the key "b64"."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"b64"}:
            return base64.b64decode(value["b64"], validate=True)
        return {key: decode(item) for key, item in value.items()}
    return value
