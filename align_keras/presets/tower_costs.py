"""Parameters, operations and memory of an encoder, computed from its sizes.

A multiplication in a convolution or a matrix product counts as two operations, for the
product and the sum. Normalization, activations and softmax are not counted. "Saved"
values are those that the forward pass stores for the backward pass. Dropout masks and
single vectors, which are less than 5% in total, are not counted.
"""

import dataclasses
import os

from align_keras.presets import variants
from align_keras.presets.variants import DEFAULT_BLOCKS, DEFAULT_RANK
from align_keras.utils.errors import InputError

_SQUEEZE_RATIO = 0.25
# Modes of `set_training` with a backward pass through blocks.
_BACKWARD_MODES = ("last_blocks", "lora", "full")
# Number of gradients in memory at the same time. They belong to the output and the
# input of an operation.
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class TowerCost:
    """Costs of an encoder. Operations and values are per example.

    Attributes:
        parameters: number of parameters.
        learned: number of parameters that the optimizer updates.
        flops: operations of the forward pass.
        learned_flops: operations of the forward pass in the layers that the
            backward pass traverses.
        recomputed_flops: operations that rematerialization repeats.
        saved_values: number of values that are saved for the backward pass.
        peak: largest number of values in memory at the same time. They are saved
            values, recomputed values and gradients.
        copied_parameters: number of parameters whose 16-bit copies are in
            memory at the same time as the gradients, under a mixed policy. None means
            all parameters.
    """

    parameters: int
    learned: int
    flops: int
    learned_flops: int
    recomputed_flops: int
    saved_values: int
    peak: int
    copied_parameters: int | None = None

    @property
    def copies(self) -> int:
        """Number of parameters whose 16-bit copies are in memory with the gradients."""
        if self.copied_parameters is None:
            return self.parameters
        return self.copied_parameters


@dataclasses.dataclass(frozen=True)
class _Part:
    """Costs of a part of an encoder, such as a convolution or a block.

    Attributes:
        parameters: number of parameters.
        unlearned: number of parameters that no optimizer updates.
        flops: operations of the forward pass.
        saved_values: number of values that are saved for the backward pass.
        largest: number of values of the largest tensor.
    """

    parameters: int = 0
    unlearned: int = 0
    flops: int = 0
    saved_values: int = 0
    largest: int = 0

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(
            self.parameters + other.parameters,
            self.unlearned + other.unlearned,
            self.flops + other.flops,
            self.saved_values + other.saved_values,
            max(self.largest, other.largest),
        )


def image_tower_cost(
    *,
    width_coefficient: float,
    depth_coefficient: float,
    image_size: int,
    num_stages: int = 7,
    padding: str = "tf",
    lite: bool = False,
    projection_dim: int | None = None,
    num_classes: int | None = None,
    rematerialize: bool = False,
    locked: bool = False,
    training: str = "full",
    blocks: int = DEFAULT_BLOCKS,
    rank: int = DEFAULT_RANK,
) -> TowerCost:
    """Returns the cost of an `ImageEncoder` with these arguments.

    `training`, `blocks` and `rank` are those of `set_training`.
    """
    mode = "projection" if locked else training
    same_padding = padding == "tf"
    side = _strided(image_size, same_padding)
    channels = variants.stem_filters(width_coefficient, lite)
    stem = [
        _Part(saved_values=3 * (image_size + (not same_padding)) ** 2),
        _convolution(3, 3, channels, side, lite),
    ]
    all_blocks = []
    outputs = [0]
    factors = 0
    for stage in variants.scaled_stages(
        width_coefficient, depth_coefficient, lite, num_stages
    ):
        for repeat in range(stage.repeats):
            strides = stage.strides if repeat == 0 else 1
            all_blocks.append(
                _block(stage, channels, strides, side, lite, same_padding)
            )
            factors += rank * _block_factor_rows(stage, channels, lite)
            side = _strided(side, same_padding) if strides == 2 else side
            channels = stage.filters
            outputs.append(channels * side * side)
    end: list[_Part] = []
    if num_classes is not None:
        filters = variants.head_filters(width_coefficient, lite)
        end.append(_convolution(1, channels, filters, side, lite))
        end.append(_dense(filters, num_classes))
        channels = filters + num_classes
    all_parts = [*stem, *(part for block in all_blocks for part in block), *end]
    body = sum(all_parts, _Part())
    # The backward pass ends at the first block that is trained.
    start = stem
    trained_blocks = all_blocks
    if mode == "last_blocks":
        first = max(len(all_blocks) - blocks, 0)
        start = [_Part(saved_values=outputs[first])]
        trained_blocks = all_blocks[first:]
        outputs = [0, *outputs[first + 1 :]]
    block_parts = [part for block in trained_blocks for part in block]
    parts = [*start, *block_parts, *end]
    trained = sum(parts, _Part())
    saved_values = trained.saved_values
    peak = _peak(0, parts)
    recomputed_flops = 0
    block_weights = None
    if rematerialize and mode in _BACKWARD_MODES:
        block_weights = [sum(block, _Part()).parameters for block in trained_blocks]
        recomputed_flops = sum(block_parts, _Part()).flops
        # Only the input of a block is saved until the block is computed again.
        saved_so_far = sum(start, _Part()).saved_values
        peak = _peak(0, start)
        for block, output in zip(trained_blocks, outputs[:-1], strict=True):
            saved_so_far += output
            peak = max(peak, _peak(saved_so_far, block))
        saved_so_far += outputs[-1]
        saved_values = saved_so_far + sum(end, _Part()).saved_values
        peak = max(peak, _peak(saved_so_far, end))
    if projection_dim is not None:
        factors += rank * (channels + projection_dim)
    return _tower(
        mode,
        body,
        trained,
        _dense(channels, projection_dim),
        factors,
        saved_values,
        peak,
        recomputed_flops,
        block_weights,
    )


def _peak(saved_values: int, parts: list[_Part]) -> int:
    """Returns the largest number of values in memory while parts are backpropagated."""
    peak = saved_values
    for part in parts:
        saved_values += part.saved_values
        peak = max(peak, saved_values + _IN_FLIGHT * part.largest)
    return peak


def text_tower_cost(
    *,
    architecture: str = "bert",
    num_layers: int,
    hidden_dim: int,
    num_heads: int,
    intermediate_dim: int,
    vocabulary_size: int,
    sequence_length: int,
    projection_dim: int | None,
    max_sequence_length: int | None = None,
    dropout: float = 0.1,
    pooling: str = "cls",
    rematerialize: bool = False,
    locked: bool = False,
    training: str = "full",
    blocks: int = DEFAULT_BLOCKS,
    rank: int = DEFAULT_RANK,
) -> TowerCost:
    """Returns the cost of a `TextEncoder` for captions of `sequence_length` tokens.

    `training`, `blocks` and `rank` are those of `set_training`.
    """
    mode = "projection" if locked else training
    length = sequence_length
    width = hidden_dim
    inner = intermediate_dim
    parts = variants.ARCHITECTURES[architecture]
    norm = 2 * width
    pooler = (width + 1) * width if parts.pooler else 0
    rows = vocabulary_size + (max_sequence_length or length) + (parts.segments or 0)
    narrow = parts.embedding_dim or width
    embeddings = _Part((rows + 2) * narrow, saved_values=3 * length * narrow)
    if narrow != width or architecture == "albert":  # ALBERT always projects.
        embeddings += _Part(saved_values=length * narrow)
        embeddings += _dense(narrow, width, length)
    attention = 4 * (width + 1) * width + norm
    feed_forward = (width + 1) * inner + (inner + 1) * width + norm
    products = length * (4 * width * width + 2 * length * width + 2 * width * inner)
    scores = num_heads * length * length
    # A layer saves twelve tensors of the layer width, the input and output of GELU, and
    # the attention weights before and after dropout. The twelve tensors are queries,
    # keys, values, the output of the attention, two residual sums, the two sums minus
    # their mean, and two normalized sums before and after their scale. TensorFlow
    # before 2.22 doesn't save the sums minus their mean.
    layer = 12 * length * width + 2 * length * inner + scores * (2 if dropout else 1)
    last = layer
    last_products = products
    # The last layer computes one token from all keys and values.
    if pooling == "cls" and not parts.shares_layers:
        last = 3 * length * width
        last_products = 2 * (length + 1) * width * width + 2 * length * width
        last_products += 2 * width * inner
    largest = max(length * inner, length * width, scores)

    def last_layers(stored: int, computed: int) -> _Part:
        """Returns the cost of the last layers, some of which may share weights."""
        return _Part(
            stored * (attention + feed_forward),
            flops=2 * ((computed - 1) * products + last_products),
            saved_values=(computed - 1) * layer + last,
            largest=largest,
        )

    stored = 1 if parts.shares_layers else num_layers
    layers = last_layers(stored, num_layers)
    # The output of the pooler isn't used.
    body = embeddings + layers + _Part(pooler, unlearned=pooler)
    start = embeddings
    num_trained = num_layers
    if mode == "last_blocks":
        start = _Part(saved_values=length * width)
        if not parts.shares_layers:
            stored = num_trained = min(blocks, num_layers)
        layers = last_layers(stored, num_trained)
    trained = start + layers
    saved_values = trained.saved_values
    recomputed_flops = 0
    peak = _peak(0, [trained])
    layer_weights = None
    if rematerialize and mode in _BACKWARD_MODES:
        layer_weights = stored * [attention + feed_forward]
        saved_values = num_trained * length * width + start.saved_values
        recomputed_flops = layers.flops
        peak = saved_values + layer + _IN_FLIGHT * body.largest
    # Keras adapts the query and value kernels (width, heads, width / heads) with
    # factors (width, heads, rank) and (rank, width / heads).
    all_stored = 1 if parts.shares_layers else num_layers
    factors = all_stored * 2 * rank * (width * num_heads + width // num_heads)
    if projection_dim is not None:
        factors += rank * (width + projection_dim)
    return _tower(
        mode,
        body,
        trained,
        _dense(width, projection_dim),
        factors,
        saved_values,
        peak,
        recomputed_flops,
        layer_weights,
    )


def check_parameters(
    image: dict, text: dict, most: int, source: str | os.PathLike
) -> None:
    """Raises if two encoders have more parameters than a file can contain.

    This check comes before the model is built, since a damaged configuration could
    describe a model that fills the memory.

    Args:
        image: configuration of the image encoder.
        text: configuration of the text encoder.
        most: largest number of parameters that the file can contain.
        source: path of the file, for the message.
    """
    image_names = (
        "width_coefficient",
        "depth_coefficient",
        "num_stages",
        "lite",
        "projection_dim",
        "num_classes",
    )
    text_names = (
        "architecture",
        "num_layers",
        "hidden_dim",
        "intermediate_dim",
        "vocabulary_size",
        "max_sequence_length",
        "projection_dim",
    )
    image_sizes = {name: image[name] for name in image_names if name in image}
    text_sizes = {name: text[name] for name in text_names if name in text}
    text_sizes.setdefault("projection_dim", None)
    text_sizes["num_heads"] = 1
    text_sizes["sequence_length"] = 3
    count = image_tower_cost(**image_sizes, image_size=32).parameters
    count += text_tower_cost(**text_sizes).parameters
    if count > most:
        raise InputError(
            f"{source} is damaged or doesn't fit the config.json next to it. The file "
            f"can contain at most {most:,} parameters. Received: {count:,} parameters "
            "in config.json. Download both files again."
        )


def _tower(
    mode: str,
    body: _Part,
    trained: _Part,
    projection: _Part,
    factors: int,
    saved_values: int,
    peak: int,
    recomputed_flops: int,
    block_weights: list[int] | None,
) -> TowerCost:
    """Returns the cost of an encoder from its parts."""
    parameters = body.parameters + projection.parameters
    copied_parameters = None
    if block_weights is not None:
        # The 16-bit copies of the weights of a block are released after the block and
        # created again for its gradients, one block at a time.
        outside_blocks = parameters - sum(block_weights)
        copied_parameters = outside_blocks + 2 * max(block_weights)
    # A body without trained weights has no backward pass, so it saves no values. LoRA
    # is estimated with the backward pass of full training, which is an upper bound.
    has_backward = mode in _BACKWARD_MODES
    learned = trained.parameters - trained.unlearned if has_backward else 0
    learned += projection.parameters
    learned_flops = projection.flops + (trained.flops if has_backward else 0)
    if mode == "lora":
        parameters += factors
        learned = factors
    if mode == "frozen":
        learned = 0
        learned_flops = 0
    forward_peak = _IN_FLIGHT * body.largest
    return TowerCost(
        parameters=parameters,
        learned=learned,
        flops=body.flops + projection.flops,
        learned_flops=learned_flops,
        recomputed_flops=recomputed_flops,
        saved_values=saved_values if has_backward else 0,
        peak=max(peak, forward_peak) if has_backward else forward_peak,
        copied_parameters=copied_parameters,
    )


def _strided(side: int, same_padding: bool) -> int:
    """Returns the side after a stride of 2, rounded up for SAME padding."""
    return (side + same_padding) // 2


def _block(
    stage: variants.Stage,
    channels: int,
    strides: int,
    side: int,
    lite: bool,
    same_padding: bool,
) -> list[_Part]:
    """Returns the parts of an `MBConvBlock` without its input."""
    inner = channels * stage.expand_ratio
    kernel = stage.kernel_size
    block = []
    if stage.expand_ratio != 1:
        block.append(_convolution(1, channels, inner, side, lite))
    if strides == 2 and side % 2 and not same_padding:
        # ZeroPadding2D copies a tensor with an odd side. The backward pass needs the
        # copy, and also the original if the gradient of the activation reads it.
        padded = (side + kernel - 2) ** 2
        instead = 0 if lite else side * side
        block.append(
            _Part(saved_values=inner * (padded - instead), largest=inner * padded)
        )
    side = _strided(side, same_padding) if strides == 2 else side
    block.append(_convolution(kernel, 1, inner, side, lite))
    if not lite:
        squeezed = max(1, int(channels * _SQUEEZE_RATIO))
        weights = 2 * inner * squeezed
        gated = inner * side * side
        block.append(
            _Part(weights + inner + squeezed, flops=2 * weights, saved_values=gated)
        )
    project = _convolution(1, inner, stage.filters, side, lite)
    # The block ends without an activation. The outputs of the convolution and of the
    # block are saved.
    saved_values = 2 * stage.filters * side * side
    return [*block, dataclasses.replace(project, saved_values=saved_values)]


def _block_factor_rows(stage: variants.Stage, channels: int, lite: bool) -> int:
    """Returns the number of parameters of the factors of a block for rank 1."""
    inner = channels * stage.expand_ratio
    rows = inner + stage.filters
    if stage.expand_ratio != 1:
        rows += channels + inner
    if not lite:
        squeezed = max(1, int(channels * _SQUEEZE_RATIO))
        rows += 2 * (inner + squeezed)
    return rows


def _convolution(
    kernel: int, channels_in: int, channels_out: int, side: int, lite: bool
) -> _Part:
    """Returns the costs of a convolution, batch normalization and activation."""
    weights = kernel * kernel * channels_in * channels_out
    values = channels_out * side * side
    return _Part(
        weights + 4 * channels_out,  # Gamma, beta, moving mean, moving variance.
        unlearned=2 * channels_out,
        flops=2 * weights * side * side,
        # The gradient of ReLU6 reads its output, so its input isn't saved.
        saved_values=(2 if lite else 3) * values,
        largest=values,
    )


def _dense(width_in: int, width_out: int | None, rows: int = 1) -> _Part:
    """Returns the costs of a dense layer with bias, or no costs without `width_out`."""
    if width_out is None:
        return _Part()
    return _Part((width_in + 1) * width_out, flops=2 * rows * width_in * width_out)
