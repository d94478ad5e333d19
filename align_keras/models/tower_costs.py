"""What a tower weighs, computes and keeps, from its sizes alone.

Operations are two for each multiplication of a convolution or a matrix product;
normalization, activations and softmax don't count. "Kept" are the values that gradients
read; dropout's masks and single vectors, under 5% together, are left out.
"""

import dataclasses
import os

from align_keras.models import variants
from align_keras.utils.errors import InputError

_SQUEEZE_RATIO = 0.25
# The gradients at an operation's output and at its input.
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class TowerCost:
    """A tower's cost; operations and values are those of one example.

    `learned` are the parameters that the optimizer updates, `learned_flops` the part of
    `flops` (of the forward pass) that a backward pass follows, `recomputed_flops` what
    rematerialization computes again. `kept` are values kept for the backward pass,
    `peak` those there where it takes most: kept, computed again, and in flight.
    `copied` are the parameters whose 16-bit copies, under a mixed policy, are in memory
    together with the gradients. None stands for all parameters.
    """

    parameters: int
    learned: int
    flops: int
    learned_flops: int
    recomputed_flops: int
    kept: int
    peak: int
    copied: int | None = None

    @property
    def copies(self) -> int:
        """Parameters whose 16-bit copies are in memory together with the gradients."""
        return self.parameters if self.copied is None else self.copied


@dataclasses.dataclass(frozen=True)
class _Part:
    """A piece of a tower; `largest` is its largest tensor."""

    parameters: int = 0
    unlearned: int = 0
    flops: int = 0
    kept: int = 0
    largest: int = 0

    def __add__(self, other):
        return _Part(
            self.parameters + other.parameters,
            self.unlearned + other.unlearned,
            self.flops + other.flops,
            self.kept + other.kept,
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
) -> TowerCost:
    """Returns the cost of an `ImageEncoder` with these arguments."""
    same = padding == "tf"
    side = _strided(image_size, same)
    channels = variants.stem_filters(width_coefficient, lite)
    stem = [
        _Part(kept=3 * (image_size + (not same)) ** 2),
        _convolution(3, 3, channels, side, lite),
    ]
    blocks, outputs = [], [0]
    for stage in variants.scaled_stages(
        width_coefficient, depth_coefficient, lite, num_stages
    ):
        for repeat in range(stage.repeats):
            strides = stage.strides if repeat == 0 else 1
            blocks.append(_block(stage, channels, strides, side, lite, same))
            side = _strided(side, same) if strides == 2 else side
            channels = stage.filters
            outputs.append(channels * side * side)
    end = []
    if num_classes is not None:
        filters = variants.head_filters(width_coefficient, lite)
        end.append(_convolution(1, channels, filters, side, lite))
        end.append(_dense(filters, num_classes))
        channels = filters + num_classes
    parts = [*stem, *sum(blocks, []), *end]
    body = sum(parts, _Part())
    kept, peak, again = body.kept, _peak(0, parts), 0
    block_weights = None
    if rematerialize and not locked:
        block_weights = [sum(block, _Part()).parameters for block in blocks]
        again = sum(sum(blocks, []), _Part()).flops
        # Of each block there is only what it gave, until it is computed again.
        there = sum(stem, _Part()).kept
        peak = _peak(0, stem)
        for block, output in zip(blocks, outputs[:-1], strict=True):
            there += output
            peak = max(peak, _peak(there, block))
        there += outputs[-1]
        kept, peak = there + sum(end, _Part()).kept, max(peak, _peak(there, end))
    projection = _dense(channels, projection_dim)
    return _tower(body, projection, kept, peak, again, locked, block_weights)


def _peak(kept, parts):
    """Values there are at most while a backward pass runs through the parts."""
    peak = kept
    for part in parts:
        kept += part.kept
        peak = max(peak, kept + _IN_FLIGHT * part.largest)
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
) -> TowerCost:
    """Returns the cost of a `TextEncoder`, by captions of `sequence_length` tokens."""
    length, width, inner = sequence_length, hidden_dim, intermediate_dim
    parts = variants.ARCHITECTURES[architecture]
    norm, pooler = 2 * width, (width + 1) * width if parts.pooler else 0
    rows = vocabulary_size + (max_sequence_length or length) + (parts.segments or 0)
    narrow = parts.embedding_dim or width
    embeddings = _Part((rows + 2) * narrow, kept=2 * length * narrow)
    if narrow != width or architecture == "albert":  # ALBERT always projects.
        embeddings += _Part(kept=length * narrow) + _dense(narrow, width, length)
    attention = 4 * (width + 1) * width + norm
    feed_forward = (width + 1) * inner + (inner + 1) * width + norm
    products = length * (4 * width * width + 2 * length * width + 2 * width * inner)
    scores = num_heads * length * length
    # Of a layer: ten tensors of the width (queries, keys, values, the attention's
    # output, two residual sums, two normalized sums and theirs before the scale),
    # GELU's input and output, and the attention's weights before and after dropout.
    layer = 10 * length * width + 2 * length * inner + scores * (2 if dropout else 1)
    last, last_products = layer, products
    # The last layer computes one token from all keys and values.
    if pooling == "cls" and not parts.shares_layers:
        last = 3 * length * width
        last_products = 2 * (length + 1) * width * width + 2 * length * width
        last_products += 2 * width * inner
    stored = 1 if parts.shares_layers else num_layers
    layers = _Part(
        pooler + stored * (attention + feed_forward),
        unlearned=pooler,  # Nothing here reads it.
        flops=2 * ((num_layers - 1) * products + last_products),
        kept=(num_layers - 1) * layer + last,
        largest=max(length * inner, length * width, scores),
    )
    body = embeddings + layers
    kept, again, peak = body.kept, 0, _peak(0, [body])
    layer_weights = None
    if rematerialize and not locked:
        layer_weights = stored * [attention + feed_forward]
        kept, again = num_layers * length * width + embeddings.kept, layers.flops
        peak = kept + layer + _IN_FLIGHT * body.largest
    projection = _dense(width, projection_dim)
    return _tower(body, projection, kept, peak, again, locked, layer_weights)


def check_parameters(
    image: dict, text: dict, most: int, source: str | os.PathLike
) -> None:
    """Raises, before a model is built, if two towers don't fit into a file."""
    image_names = ("width_coefficient", "depth_coefficient", "num_stages", "lite")
    text_names = (
        *("architecture", "num_layers", "hidden_dim", "intermediate_dim"),
        "vocabulary_size",
    )
    image = {name: image[name] for name in image_names if name in image}
    text = {name: text[name] for name in text_names if name in text}
    text |= {"num_heads": 1, "sequence_length": 3, "projection_dim": None}
    count = image_tower_cost(**image, image_size=32).parameters
    count += text_tower_cost(**text).parameters
    if count > most:
        raise InputError(
            f"{source} is damaged or doesn't fit the config.json beside it, which "
            f"describes {count:,} parameters, where the file has room for {most:,} at "
            "most; get both again."
        )


def _tower(body, projection, kept, peak, recomputed_flops, locked, block_weights):
    """Adds the projection; a locked tower has no backward pass, and keeps nothing.

    `block_weights` are the parameters of each rematerialized block, or None. A block's
    16-bit copies are released after the block, and made again for its gradients. There
    are 16-bit gradients of one block at a time too.
    """
    copied = None
    if block_weights is not None:
        others = body.parameters + projection.parameters - sum(block_weights)
        copied = others + 2 * max(block_weights)
    learned = 0 if locked else body.parameters - body.unlearned
    return TowerCost(
        parameters=body.parameters + projection.parameters,
        learned=learned + projection.parameters,
        flops=body.flops + projection.flops,
        learned_flops=projection.flops + (0 if locked else body.flops),
        recomputed_flops=recomputed_flops,
        kept=0 if locked else kept,
        peak=_IN_FLIGHT * body.largest if locked else peak,
        copied=copied,
    )


def _strided(side, same):
    """Returns the side that a stride of 2 leaves; an odd one is rounded up by SAME."""
    return (side + same) // 2


def _block(stage, channels, strides, side, lite, same):
    """Returns an `MBConvBlock`'s parts; its input is kept as the output before it."""
    inner, kernel = channels * stage.expand_ratio, stage.kernel_size
    block = []
    if stage.expand_ratio != 1:
        block.append(_convolution(1, channels, inner, side, lite))
    if strides == 2 and side % 2 and not same:
        # The padded copy is kept in the place of what it copies, or beside it where
        # the activation's gradient reads its output. Even sizes aren't padded.
        padded = (side + kernel - 2) ** 2
        instead = 0 if lite else side * side
        block.append(_Part(kept=inner * (padded - instead), largest=inner * padded))
    side = _strided(side, same) if strides == 2 else side
    block.append(_convolution(kernel, 1, inner, side, lite))
    if not lite:
        squeezed = max(1, int(channels * _SQUEEZE_RATIO))
        weights = 2 * inner * squeezed
        gated = inner * side * side
        block.append(_Part(weights + inner + squeezed, flops=2 * weights, kept=gated))
    project = _convolution(1, inner, stage.filters, side, lite)
    # No activation follows: only the convolution's and the block's outputs are kept.
    kept = 2 * stage.filters * side * side
    return [*block, dataclasses.replace(project, kept=kept)]


def _convolution(kernel, channels_in, channels_out, side, lite):
    """Counts a convolution, batch normalization and activation; keeps their outputs."""
    weights = kernel * kernel * channels_in * channels_out
    values = channels_out * side * side
    return _Part(
        weights + 4 * channels_out,  # Gamma, beta, moving mean, moving variance.
        unlearned=2 * channels_out,
        flops=2 * weights * side * side,
        # ReLU6's gradient reads its output, so that the one before isn't kept.
        kept=(2 if lite else 3) * values,
        largest=values,
    )


def _dense(width_in, width_out, rows=1):
    """Counts a dense layer with its bias, or nothing where `width_out` is None."""
    if width_out is None:
        return _Part()
    return _Part((width_in + 1) * width_out, flops=2 * rows * width_in * width_out)
