"""Formulas for the operations, memory and network traffic of a training step.

A multiply-add counts as two operations. Numbers of operations are totals of all
devices. Numbers of bytes are those of one device. The formulas assume that network
traffic and computation overlap.

Steps of TensorFlow's graph executor on CPUs, measured part by part, are within 20% of
the formulas (tools/benchmarks/bench_plan.py of commit a3635080). The formulas do not
include

- two copies of the largest weight in the update. They are created after the activations
  have been released.
- XLA on TPUs, which fuses normalizations and activations and pads channels.

The formulas also apply to classifiers. A classifier is an image encoder whose
projection is the classification head. It has no text encoder and no contrastive loss,
so its micro-batches need only one forward pass.
"""

import dataclasses

from align_keras.config.loss_config import AUTO_SAVED_LOGITS, AUTO_TILE_SIZE
from align_keras.presets.tower_costs import TowerCost
from align_keras.utils.errors import InputError

# Bytes of a number in single and in half precision.
_FLOAT32 = 4
_HALF = 2
_SECONDS_PER_DAY = 86_400
# Numbers of copies of an array at the peak of memory, which
# tests/planning/test_step_plan.py measures. The arrays are a tile of logits, all logits
# of a loss without tiles, all similarities of a distillation, the embeddings of one
# device, and those of all devices.
_TILE_COPIES = {"contrastive": 3, "sigmoid": 5}
_UNTILED_LOGIT_COPIES = {"contrastive": 13, "sigmoid": 4}
# TensorFlow runs the independent products of this loss in an order that differs from
# process to process. From five to eight copies exist at the peak.
_SIMILARITY_LOGIT_COPIES = 8
_DEVICE_EMBEDDING_COPIES = 2
_GATHERED_EMBEDDING_COPIES = 3


@dataclasses.dataclass(frozen=True)
class RunSizes:
    """Sizes of a run that the formulas use.

    Attributes:
        image: `TowerCost` of the image encoder.
        text: `TowerCost` of the text encoder, or None for a classifier.
        projection_dim: length of the embeddings.
        global_batch_size: number of pairs in a step of all devices.
        devices: number of replicas.
        train_steps: number of steps.
        micro_batch_size: number of pairs that a device embeds at a time.
        virtual_batch_size: number of pairs per batch normalization.
        slots: number of optimizer variables per trainable weight.
        half_precision: True if the encoders compute in 16 bits.
        tile_size: the argument of `contrastive_loss`.
        negatives_fraction: the argument of `contrastive_loss`.
        shares_positives: True for a contrastive loss with
            `share_equal_captions` or `share_equal_images`, which gathers the image
            embeddings too.
        loss: `"contrastive"` or `"sigmoid"`.
        distills_similarity: True if the similarities are also compared with those
            of a teacher (`DistillationLoss`).

    Example:

    >>> from align_keras.presets.tower_costs import TowerCost
    >>> tower = TowerCost(parameters=100, learned=80, flops=1000, learned_flops=1000,
    ...     recomputed_flops=0, saved_values=50, peak=60)
    >>> sizes = RunSizes(tower, tower, 4, global_batch_size=8, devices=2, train_steps=9)
    >>> sizes.rows, sizes.learned
    (4, 161)
    """

    image: TowerCost
    text: TowerCost | None
    projection_dim: int
    global_batch_size: int
    devices: int
    train_steps: int
    micro_batch_size: int | None = None
    virtual_batch_size: int | None = None
    slots: int = 2
    half_precision: bool = False
    tile_size: int | str | None = "auto"
    negatives_fraction: float = 1.0
    shares_positives: bool = False
    loss: str = "contrastive"
    distills_similarity: bool = False

    @property
    def towers(self) -> dict[str, TowerCost]:
        towers = {"image encoder": self.image, "text encoder": self.text}
        return {name: tower for name, tower in towers.items() if tower is not None}

    @property
    def is_contrastive(self) -> bool:
        """True for a dual encoder, False for a classifier."""
        return self.text is not None

    @property
    def learned(self) -> int:
        """Number of trainable weights, including the temperature."""
        return self.is_contrastive + sum(
            tower.learned for tower in self.towers.values()
        )

    @property
    def rows(self) -> int:
        """Number of pairs per device."""
        return self.global_batch_size // self.devices

    @property
    def parts(self) -> int:
        """Number of parts of the batch. The negatives of a pair are in its part."""
        return round(1 / self.negatives_fraction)

    @property
    def saves_logits(self) -> bool:
        """True if the forward pass stores the logits for the backward pass."""
        logits = self.rows * self.global_batch_size // self.parts**2
        return self.tile_size is None or (
            self.tile_size == "auto" and logits <= AUTO_SAVED_LOGITS
        )


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Operations, memory and traffic of a run.

    Attributes:
        parameters: dict from parts of the model to numbers of weights.
        flops: dict from parts of a step to numbers of operations on all devices.
        encoder_flops: dict from encoders to the numbers of their operations, which are
            included in `flops`.
        updated_bytes: bytes that a device reads and writes to update the weights.
        memory: dict from kinds of data to bytes on a device.
        traffic: dict from kinds of data to bytes that a device receives in a step.
        train_steps: number of steps.
        devices: number of replicas.

    Example:

    >>> from align_keras.presets.tower_costs import TowerCost
    >>> tower = TowerCost(parameters=100, learned=80, flops=1000, learned_flops=1000,
    ...     recomputed_flops=0, saved_values=50, peak=60)
    >>> sizes = RunSizes(tower, tower, 4, global_batch_size=8, devices=2, train_steps=9)
    >>> sorted(plan_step(sizes).seconds(1e6, 1e6, 1e6))
    ['image encoder', 'loss', 'text encoder', 'update of the weights']
    """

    parameters: dict
    flops: dict
    encoder_flops: dict
    updated_bytes: int
    memory: dict
    traffic: dict
    train_steps: int
    devices: int

    def seconds(
        self, image_rate: float, text_rate: float, bandwidth: float
    ) -> dict[str, float]:
        """Returns the seconds of each part of a step.

        Args:
            image_rate: operations per second of a device in the image encoder.
            text_rate: operations per second of a device in the text encoder and the
                loss.
            bandwidth: bytes per second of the memory of a device.
        """
        rates = {"image encoder": image_rate}
        parts = dict(self.encoder_flops)
        if "loss" in self.flops:
            parts["loss"] = self.flops["loss"]
        return {
            **{
                part: flops / self.devices / rates.get(part, text_rate)
                for part, flops in parts.items()
            },
            "update of the weights": self.updated_bytes / bandwidth,
        }

    def days(self, image_rate: float, text_rate: float, bandwidth: float) -> float:
        """Returns the days of all steps. The arguments are those of `seconds`."""
        seconds = sum(self.seconds(image_rate, text_rate, bandwidth).values())
        return self.train_steps * seconds / _SECONDS_PER_DAY


def plan_step(sizes: RunSizes) -> StepPlan:
    """Computes the operations, memory and traffic of a run.

    Raises:
        InputError: if the batch size is not divisible by the number of devices, of
            micro-batches or of parts.

    Example:

    >>> from align_keras.presets.tower_costs import TowerCost
    >>> tower = TowerCost(parameters=100, learned=80, flops=1000, learned_flops=1000,
    ...     recomputed_flops=0, saved_values=50, peak=60)
    >>> sizes = RunSizes(tower, tower, 4, global_batch_size=8, devices=2, train_steps=9)
    >>> plan_step(sizes).flops["forward"], plan_step(sizes).memory["weights"]
    (16000, 804)
    """
    check_division(sizes)
    micro_batches = sizes.rows // (sizes.micro_batch_size or sizes.rows)
    # Numbers that are read or written per trainable weight. The update reads the
    # gradient, and reads and writes the weight and its slots. Each further micro-batch
    # reads two gradients and writes their sum.
    numbers_per_weight = 3 + 2 * sizes.slots + 3 * (micro_batches - 1)
    return StepPlan(
        parameters={
            **{name: tower.parameters for name, tower in sizes.towers.items()},
            **({"temperature": 1} if sizes.is_contrastive else {}),
        },
        flops=flops(sizes),
        encoder_flops={
            name: encoder_flops(sizes, tower) for name, tower in sizes.towers.items()
        },
        updated_bytes=_FLOAT32 * sizes.learned * numbers_per_weight,
        memory=memory(sizes),
        traffic=traffic(sizes),
        train_steps=sizes.train_steps,
        devices=sizes.devices,
    )


def check_division(sizes: RunSizes) -> None:
    """Raises unless the batch can be divided evenly among devices and their parts."""
    batch = sizes.global_batch_size
    devices = sizes.devices
    if devices < 1 or batch % devices:
        raise InputError(
            f"`devices` must be a divisor of the global batch size {batch}. Received: "
            f"devices={devices}. Change one of the two."
        )
    for name, size in (
        ("micro_batch_size", sizes.micro_batch_size),
        ("virtual_batch_size", sizes.virtual_batch_size),
        ("1 / negatives_fraction", sizes.parts),
    ):
        if size and sizes.rows % size:
            raise InputError(
                f"`{name}` must be a divisor of {sizes.rows}, the number of pairs per "
                f"device. Received: {size}. Change this number or the number of "
                "devices."
            )


def flops(sizes: RunSizes) -> dict[str, int]:
    """Returns the number of operations of a step on all devices, by part."""
    pairs = sizes.global_batch_size
    towers = sizes.towers.values()
    forward = pairs * sum(tower.flops for tower in towers)
    recomputation = pairs * sum(tower.recomputed_flops for tower in towers)
    if embeds_twice(sizes):
        recomputation += forward
    parts = {
        "forward": forward,
        "backward": 2 * pairs * sum(tower.learned_flops for tower in towers),
        "recomputation": recomputation,
    }
    if not sizes.is_contrastive:
        return parts
    product = 2 * sizes.projection_dim * pairs**2 // sizes.parts
    if sizes.loss == "contrastive" and sizes.tile_size is None and sizes.devices > 1:
        # This loss computes the product again for the other direction.
        product *= 2
    loss = product * (3 if sizes.saves_logits else 4)
    if sizes.distills_similarity:
        # Each direction has one product of the teacher and three of the student.
        loss += 2 * 4 * 2 * sizes.projection_dim * pairs**2
    return {**parts, "loss": loss}


def embeds_twice(sizes: RunSizes) -> bool:
    """Returns True if micro-batches are embedded again for the gradients.

    The first pass computes all embeddings for the loss. The second pass computes the
    gradients of one micro-batch at a time.
    """
    return sizes.is_contrastive and sizes.micro_batch_size is not None


def encoder_flops(sizes: RunSizes, tower: TowerCost) -> int:
    """Returns the number of operations of one encoder in a step on all devices."""
    forward = tower.flops * (2 if embeds_twice(sizes) else 1)
    backward = tower.recomputed_flops + 2 * tower.learned_flops
    return sizes.global_batch_size * (forward + backward)


def memory(sizes: RunSizes) -> dict[str, int]:
    """Returns the bytes on a device at the peak of memory, by kind of data."""
    towers = sizes.towers
    learned = sizes.learned
    weights = sizes.is_contrastive + sum(tower.parameters for tower in towers.values())
    rows = sizes.micro_batch_size or sizes.rows
    activation_size = _HALF if sizes.half_precision else _FLOAT32
    stored = sum(tower.saved_values for tower in towers.values())
    peak = max(tower.peak for tower in towers.values())
    half_weights = 0
    if sizes.half_precision:
        tower_copies = sum(tower.copies for tower in towers.values())
        half_weights = sizes.is_contrastive + tower_copies
    parts = {
        "weights": weights * _FLOAT32 + half_weights * _HALF,
        "gradients": _FLOAT32 * learned * (1 if sizes.micro_batch_size is None else 2),
        "optimizer": _FLOAT32 * learned * sizes.slots,
        **{
            f"{name.split()[0]} activations": activation_size * rows * cost.saved_values
            for name, cost in towers.items()
        },
        "in flight": activation_size * rows * max(0, peak - stored),
    }
    if not sizes.is_contrastive:
        return parts
    # Embeddings of this device, embeddings that it gathered, and gradients of both.
    gathered_copies = _GATHERED_EMBEDDING_COPIES + sizes.shares_positives
    embedding_count = (
        _DEVICE_EMBEDDING_COPIES * sizes.rows
        + gathered_copies * sizes.global_batch_size
    )
    return {
        **parts,
        "logits": _FLOAT32 * (logits(sizes) + similarities(sizes)),
        "embeddings": _FLOAT32 * sizes.projection_dim * embedding_count,
    }


def logits(sizes: RunSizes) -> int:
    """Returns the number of logits on a device at the peak of memory."""
    rows = sizes.rows // sizes.parts
    columns = sizes.global_batch_size // sizes.parts
    if sizes.tile_size is None:
        return _UNTILED_LOGIT_COPIES[sizes.loss] * sizes.parts * rows * columns
    tile = AUTO_TILE_SIZE if sizes.tile_size == "auto" else int(sizes.tile_size)
    stored_logits = sizes.parts * rows * columns if sizes.saves_logits else 0
    tile_logits = min(tile, rows) * min(tile, columns)
    return stored_logits + _TILE_COPIES[sizes.loss] * tile_logits


def similarities(sizes: RunSizes) -> int:
    """Returns the number of similarities of a distillation on a device at the peak."""
    if not sizes.distills_similarity:
        return 0
    return _SIMILARITY_LOGIT_COPIES * sizes.rows * sizes.global_batch_size


def traffic(sizes: RunSizes) -> dict[str, int]:
    """Returns the bytes that a device receives in a step, by kind of data."""
    remote_fraction = (sizes.devices - 1) / sizes.devices
    weights = round(2 * remote_fraction * _FLOAT32 * sizes.learned)
    if not sizes.is_contrastive:
        return {"summed gradients of weights": weights}
    texts = _FLOAT32 * sizes.projection_dim * sizes.global_batch_size
    gathered = texts * (2 if sizes.shares_positives else 1)
    return {
        "gathered embeddings": round(remote_fraction * gathered),
        "summed gradients of embeddings": round(2 * remote_fraction * gathered),
        "summed gradients of weights": weights,
    }
