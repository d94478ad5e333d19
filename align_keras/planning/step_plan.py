"""Formulas for operations, memory and traffic of a training step.

A multiplication counts as two operations. Operations are those of all devices, and
bytes those of one. Measured steps of TensorFlow's graph executor on CPUs are within
20%, part by part. The formulas leave out the two copies of the largest weight in the
update, after the activations are released, and XLA on TPUs, which fuses normalizations
and activations and pads channels. Traffic is assumed to run in parallel to the
operations. tools/benchmarks/bench_plan.py compares the formulas with real steps.

A classifier is an image encoder whose projection is the head, without text encoder and
contrastive loss. Its micro-batches take one pass, so that nothing is computed again.
"""

import dataclasses

from align_keras.config.loss_tiles import AUTO_KEPT_LOGITS, AUTO_TILE_SIZE
from align_keras.models.tower_costs import TowerCost
from align_keras.utils.errors import InputError

# Bytes of a number.
_FLOAT32 = 4
_HALF = 2
_SECONDS_A_DAY = 86_400
# Number of copies at the peak of memory, measured in tests/planning/test_step_plan.py:
# of a tile, of all logits of each plain form, of the embeddings of a device, and of the
# embeddings of all devices.
_TILES = 3
_PLAIN_LOGITS = {"contrastive": 13, "sigmoid": 4}
_DEVICE_EMBEDDINGS = 2
_ALL_EMBEDDINGS = 3


@dataclasses.dataclass(frozen=True)
class RunSizes:
    """Sizes of a run that the formulas use.

    Attributes:
        image: `TowerCost` of the image encoder.
        text: `TowerCost` of the text encoder, or None for a classifier.
        projection_dim: int, width of the embeddings.
        global_batch_size: int, pairs a step over all devices.
        devices: int, replicas.
        micro_batch_size: int or None, pairs that a device embeds at once.
        virtual_batch_size: int or None, pairs that are normalized together.
        slots: int, variables that the optimizer has for each learned weight.
        half_precision: bool, True if the encoders compute in 16 bits.
        tile_size: int, `"auto"` or None, as `contrastive_loss`.
        negatives_fraction: float, as `contrastive_loss`.
        share_equal_captions: bool, as in `contrastive_loss`, which then also gathers
            the images.
        loss: str, `"contrastive"` or `"sigmoid"`, which only has the plain form.
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
    share_equal_captions: bool = False
    loss: str = "contrastive"

    @property
    def towers(self) -> dict[str, TowerCost]:
        towers = {"image encoder": self.image, "text encoder": self.text}
        return {name: tower for name, tower in towers.items() if tower is not None}

    @property
    def is_contrastive(self) -> bool:
        """True for two encoders with a temperature and their loss."""
        return self.text is not None

    @property
    def learned(self) -> int:
        """Number of weights that the optimizer updates, with the temperature."""
        return self.is_contrastive + sum(
            tower.learned for tower in self.towers.values()
        )

    @property
    def rows(self) -> int:
        """Number of pairs of a device."""
        return self.global_batch_size // self.devices

    @property
    def parts(self) -> int:
        """Number of parts of a device's rows that have only their own negatives."""
        return round(1 / self.negatives_fraction)

    @property
    def keeps_logits(self) -> bool:
        """True if the backward pass reads the logits of the forward pass."""
        logits = self.rows * self.global_batch_size // self.parts**2
        return self.tile_size is None or (
            self.tile_size == "auto" and logits <= AUTO_KEPT_LOGITS
        )


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Operations, memory and traffic of a run.

    Attributes:
        parameters: dict from part to weights.
        flops: dict from part to operations of a step over all devices.
        encoder_flops: dict from encoder to its operations among these.
        updated_bytes: int, what the update of the weights moves on each device.
        memory: dict from part to bytes of a device.
        traffic: dict from part to bytes that a device receives in a step.
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
        """Returns the seconds of a step by part.

        Args:
            image_rate: operations a second of a device in the image encoder.
            text_rate: operations a second in the text encoder and the loss.
            bandwidth: bytes a second of the device's memory.
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
        return self.train_steps * seconds / _SECONDS_A_DAY


def plan_step(sizes: RunSizes) -> StepPlan:
    """Computes operations, memory and traffic of a run.

    Raises:
        InputError: if the batch can't be divided among devices and parts.

    Example:

    >>> from align_keras.models.tower_costs import TowerCost
    >>> tower = TowerCost(parameters=100, learned=80, flops=1000, learned_flops=1000,
    ...     recomputed_flops=0, kept=50, peak=60)
    >>> sizes = RunSizes(tower, tower, 4, global_batch_size=8, devices=2, train_steps=9)
    >>> plan_step(sizes).flops["forward"], plan_step(sizes).memory["weights"]
    (16000, 804)
    """
    check_division(sizes)
    micro_batches = sizes.rows // (sizes.micro_batch_size or sizes.rows)
    # Numbers that the update reads and writes for each learned weight.
    moved = 3 + 2 * sizes.slots + 3 * (micro_batches - 1)
    return StepPlan(
        parameters={
            **{name: tower.parameters for name, tower in sizes.towers.items()},
            **({"temperature": 1} if sizes.is_contrastive else {}),
        },
        flops=flops(sizes),
        encoder_flops={
            name: encoder_flops(sizes, tower) for name, tower in sizes.towers.items()
        },
        updated_bytes=_FLOAT32 * sizes.learned * moved,
        memory=memory(sizes),
        traffic=traffic(sizes),
        train_steps=sizes.train_steps,
        devices=sizes.devices,
    )


def check_division(sizes: RunSizes) -> None:
    """Raises unless all devices, and all parts of a device, get as many pairs."""
    batch = sizes.global_batch_size
    devices = sizes.devices
    if devices < 1 or batch % devices:
        raise InputError(
            f"the global batch size ({batch}) must be a multiple of the devices, "
            f"received {devices}; change one of them."
        )
    for name, size in (
        ("micro_batch_size", sizes.micro_batch_size),
        ("virtual_batch_size", sizes.virtual_batch_size),
        ("the parts of negatives_fraction", sizes.parts),
    ):
        if size and sizes.rows % size:
            raise InputError(
                f"{name} must divide a device's {sizes.rows} pairs, received {size}; "
                "change it, or the number of devices."
            )


def flops(sizes: RunSizes) -> dict[str, int]:
    """Returns the operations of a step over all devices, by part."""
    pairs = sizes.global_batch_size
    towers = sizes.towers.values()
    forward = pairs * sum(tower.flops for tower in towers)
    again = pairs * sum(tower.recomputed_flops for tower in towers)
    if embeds_twice(sizes):
        again += forward
    parts = {
        "forward": forward,
        "backward": 2 * pairs * sum(tower.learned_flops for tower in towers),
        "recomputation": again,
    }
    if not sizes.is_contrastive:
        return parts
    product = 2 * sizes.projection_dim * pairs**2 // sizes.parts
    if sizes.loss == "contrastive" and sizes.tile_size is None and sizes.devices > 1:
        # Each direction has its own product.
        product *= 2
    return {**parts, "loss": product * (3 if sizes.keeps_logits else 4)}


def embeds_twice(sizes: RunSizes) -> bool:
    """Returns True if micro-batches are embedded twice, for loss and gradients."""
    return sizes.is_contrastive and sizes.micro_batch_size is not None


def encoder_flops(sizes: RunSizes, tower: TowerCost) -> int:
    """Returns the operations of a step in one encoder, over all devices."""
    forward = tower.flops * (2 if embeds_twice(sizes) else 1)
    again = tower.recomputed_flops + 2 * tower.learned_flops
    return sizes.global_batch_size * (forward + again)


def memory(sizes: RunSizes) -> dict[str, int]:
    """Returns the bytes of a device, by part."""
    towers = sizes.towers
    learned = sizes.learned
    weights = sizes.is_contrastive + sum(tower.parameters for tower in towers.values())
    rows = sizes.micro_batch_size or sizes.rows
    value = _HALF if sizes.half_precision else _FLOAT32
    kept = sum(tower.kept for tower in towers.values())
    peak = max(tower.peak for tower in towers.values())
    copies = sizes.is_contrastive + sum(tower.copies for tower in towers.values())
    parts = {
        "weights": weights * _FLOAT32 + (_HALF * copies if sizes.half_precision else 0),
        "gradients": _FLOAT32 * learned * (1 if sizes.micro_batch_size is None else 2),
        "optimizer": _FLOAT32 * learned * sizes.slots,
        **{
            f"{name.split()[0]} activations": value * rows * tower.kept
            for name, tower in towers.items()
        },
        "in flight": value * rows * max(0, peak - kept),
    }
    if not sizes.is_contrastive:
        return parts
    # Embeddings of the device and the gathered ones, with gradients.
    gathered_copies = _ALL_EMBEDDINGS + sizes.share_equal_captions
    embedded = (
        _DEVICE_EMBEDDINGS * sizes.rows + gathered_copies * sizes.global_batch_size
    )
    return {
        **parts,
        "logits": _FLOAT32 * logits(sizes),
        "embeddings": _FLOAT32 * sizes.projection_dim * embedded,
    }


def logits(sizes: RunSizes) -> int:
    """Returns the number of logits of a device at the peak."""
    rows = sizes.rows // sizes.parts
    columns = sizes.global_batch_size // sizes.parts
    if sizes.tile_size is None:
        return _PLAIN_LOGITS[sizes.loss] * sizes.parts * rows * columns
    tile = AUTO_TILE_SIZE if sizes.tile_size == "auto" else int(sizes.tile_size)
    kept = sizes.parts * rows * columns if sizes.keeps_logits else 0
    return kept + _TILES * min(tile, rows) * min(tile, columns)


def traffic(sizes: RunSizes) -> dict[str, int]:
    """Returns the bytes that a device receives in a step, by part."""
    remote_part = (sizes.devices - 1) / sizes.devices
    weights = round(2 * remote_part * _FLOAT32 * sizes.learned)
    if not sizes.is_contrastive:
        return {"summed gradients of weights": weights}
    texts = _FLOAT32 * sizes.projection_dim * sizes.global_batch_size
    gathered = texts * (2 if sizes.share_equal_captions else 1)
    return {
        "gathered embeddings": round(remote_part * gathered),
        "summed gradients of embeddings": round(2 * remote_part * gathered),
        "summed gradients of weights": weights,
    }
