"""Client for the served models over gRPC.

    pip install tensorflow-serving-api
    python client_grpc.py IMAGE… --captions "a red bicycle" "a blue bird"

For each image, the program prints the captions in descending order of their cosine
similarity to the image.
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
    raise SystemExit(f"{error}. Run `pip install tensorflow-serving-api`.") from None


class Client:
    """Connection to the server.

    Args:
        server: host and port.
        timeout: seconds until a request fails if there is no response.
    """

    def __init__(self, server: str = "localhost:8500", timeout: float = 30) -> None:
        # A response with thousands of embeddings exceeds the default limit, 4 MB.
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(server, options=options)
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.timeout = timeout

    def predict(self, model: str, signature: str, **inputs: Any) -> dict[str, Any]:
        """Calls a signature of a model and returns the output arrays by their names.

        Args:
            model: `"image"`, `"text"` or `"align"`.
            signature: one of the signatures in signatures.json.
            **inputs: arrays or tensors by the names of the inputs.
        """
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
        """Returns the embeddings of images and a mask of valid files.

        Args:
            files: list of bytes, contents of image files.

        Returns:
            float32 (n, d) and bool (n,). The mask is False for a file that is not an
            image. Ignore the embedding of such a file.
        """
        outputs = self.predict("image", "encode_image", image_bytes=strings(files))
        return outputs["image_embedding"], outputs["valid"]

    def encode_texts(self, captions):
        """Returns the embeddings of a list of captions, float32 (n, d)."""
        outputs = self.predict("text", "encode_text", captions=strings(captions))
        return outputs["text_embedding"]

    def similarity(self, files, captions):
        """Returns the cosine similarities of images and captions.

        Args:
            files: list of bytes, contents of n image files.
            captions: list of m str.

        Returns:
            float32 (n, m), and a mask, bool (n,), that is False for a file that is not
            an image.
        """
        inputs = {"image_bytes": strings(files), "captions": strings(captions)}
        outputs = self.predict("align", "similarity", **inputs)
        return outputs["cosine"], outputs["valid"]


def strings(values):
    """Returns a list of bytes or str, which may be empty, as a string tensor."""
    return tf.constant(list(values), tf.string, shape=(len(values),))


def main(argv=None):
    """Prints the captions in descending order of similarity to each image."""
    parser = argparse.ArgumentParser(
        description="Sorts captions by their cosine similarity to each image."
    )
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
