"""Asks the served models over gRPC: `pip install tensorflow-serving-api`.

    python client_grpc.py IMAGE… --captions "a red bicycle" "a blue bird"

prints, for each image, the captions with their cosines, the best first.
"""

import argparse
import pathlib
import sys
from typing import Any

try:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; pip install tensorflow-serving-api") from None


class Client:
    """Connection to the server.

    Args:
        server: str, host and port.
        timeout: float, seconds until a request without an answer fails.
    """

    def __init__(self, server: str = "localhost:8500", timeout: float = 30) -> None:
        # A response with thousands of embeddings exceeds the limit of gRPC, 4 MB.
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(server, options=options)
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.timeout = timeout

    def predict(self, model: str, signature: str, **inputs: Any) -> dict[str, Any]:
        """Calls a signature of signatures.json. Returns its output arrays by name."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        response = self.service.Predict(request, timeout=self.timeout)
        return {
            name: tf.make_ndarray(proto) for name, proto in response.outputs.items()
        }

    def encode_images(self, files):
        """Returns embeddings, float32 (n, d), and which files are images, bool (n,).

        The embedding of a file that is no image means nothing.
        """
        outputs = self.predict("image", "encode_image", image_bytes=strings(files))
        return outputs["image_embedding"], outputs["valid"]

    def encode_texts(self, captions):
        """Returns embeddings, float32 (n, d)."""
        outputs = self.predict("text", "encode_text", captions=strings(captions))
        return outputs["text_embedding"]

    def similarity(self, files, captions):
        """Returns cosines, float32 (n, m), and which files are images, bool (n,)."""
        inputs = {"image_bytes": strings(files), "captions": strings(captions)}
        outputs = self.predict("align", "similarity", **inputs)
        return outputs["cosine"], outputs["valid"]


def strings(values):
    """Returns a string tensor, of an empty list too."""
    return tf.constant(list(values), tf.string, shape=(len(values),))


def main(argv=None):
    """Prints the captions in the order in which they fit the images."""
    parser = argparse.ArgumentParser(description="Which caption fits the image?")
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--captions", nargs="+", required=True)
    parser.add_argument("--server", default="localhost:8500")
    arguments = parser.parse_args(argv)
    files = [path.read_bytes() for path in arguments.images]
    client = Client(arguments.server)
    cosines, valid = client.similarity(files, arguments.captions)
    for path, row, is_image in zip(arguments.images, cosines, valid, strict=True):
        print(path if is_image else f"{path}: not an image")
        if is_image:
            for cosine, caption in sorted(
                zip(row, arguments.captions, strict=True), reverse=True
            ):
                print(f"  {cosine:7.4f}  {caption}")


if __name__ == "__main__":
    try:
        main()
    except OSError as failure:
        sys.exit(f"client_grpc.py: {failure}")
    except grpc.RpcError as failure:
        sys.exit(f"client_grpc.py: {failure.code().name}: {failure.details()}")
