"""Trains the image projection of `align_small_en` on its stored inputs.

The benchmarks `bench_small_model.py`, `bench_filters.py`, `bench_methods.py` and
`bench_text_tower.py` use this module. Except in the last one, only the projection is
trained, so a training takes seconds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

BATCH_SIZE = 256
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 25
INITIAL_TEMPERATURE = 0.07
# Half of the captions stay as they are.
PROMPTS = ("{}", "{}", "a drawing of {}", "an icon of {}")
# Number of similar images of which a hard negative is drawn.
NEIGHBORS = 10
# Number of images whose cosines with all images are in memory at once.
_BLOCK = 1024
# Number of the nearest images among which the neighbors are chosen.
_CANDIDATES = 500


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Attributes:
        steps: int, number of steps.
        dropout: float, fraction of the features that are set to 0.
        class_names: bool, False starts from random weights instead of the embeddings of
            ImageNet's class names.
        label_smoothing: float, fraction of the target that all captions share.
        loss: "contrastive" or "sigmoid".
        temperature: float, fixed temperature. None learns it.
        captions: "random" draws a caption of an image in each step, "first" always uses
            the first one, and "mean" the mean of the embeddings of all of them.
        prompts: bool, True writes half of the captions into a prompt.
        hard_negative_weight: float, weight of an image that is similar to another one
            and follows it in the batch. None draws all images at random.
        averaged_steps: int, number of last steps whose weights are averaged.
        text_rate: float, learning rate of a projection of the text embeddings, relative
            to that of the image projection. 0 keeps the text embeddings.
        teacher_weight: float, weight of the loss that compares the cosines of a batch
            with those of the teacher. 0 needs no teacher.
    """

    steps: int = 150
    dropout: float = 0.0
    class_names: bool = True
    label_smoothing: float = 0.0
    loss: str = "contrastive"
    temperature: float | None = None
    captions: str = "random"
    prompts: bool = False
    hard_negative_weight: float | None = None
    averaged_steps: int = 1
    text_rate: float = 0.0
    teacher_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Projection:
    """Model whose images are inputs of the projection.

    Attributes:
        features: `bench_small_model.Features`, which embeds the texts.
        kernel: float array (features, d) of the images.
        bias: float array (d,) of the images.
        text_kernel: float array (d, d). Its product with the embedding of a text is
            added to the embedding.
    """

    features: Any
    kernel: np.ndarray
    bias: np.ndarray
    text_kernel: np.ndarray

    def encode_images(self, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings of images, (n, d) of unit length."""
        return _unit_length(rows @ self.kernel + self.bias)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, (n, d) of unit length."""
        rows = self.features.texts(texts)
        return _unit_length(rows + rows @ self.text_kernel)


def mean_of(models: Sequence[Projection]) -> Projection:
    """Returns a model whose weights are the means of those of several models."""
    return Projection(
        models[0].features,
        np.mean([model.kernel for model in models], axis=0),
        np.mean([model.bias for model in models], axis=0),
        np.mean([model.text_kernel for model in models], axis=0),
    )


def join(parts: Sequence[tuple]) -> tuple[np.ndarray, list[list[str]]]:
    """Returns the rows and captions of the images of all parts that are not held out.

    A part is a tuple that `bench_small_model.Features.images` returns.
    """
    rows = np.concatenate([part_rows[keep] for part_rows, _, keep in parts])
    captions = [
        texts
        for _, part_captions, keep in parts
        for texts, is_kept in zip(part_captions, keep, strict=True)
        if is_kept
    ]
    return rows, captions


def train(
    features,
    parts: Sequence[tuple],
    seed: int,
    settings: Settings,
    teacher: np.ndarray | None = None,
) -> Projection:
    """Trains a projection.

    Args:
        features: `bench_small_model.Features`.
        parts: list of the tuples that its method `images` returns.
        seed: int, seed of the weights, the order and the captions.
        settings: `Settings`.
        teacher: array (images, d), embeddings of the images of `join(parts)` by the
            teacher. Its embeddings of texts are those of `features`.
    """
    import keras
    import tensorflow as tf

    rows, captions = join(parts)
    texts = _TextTable(features, captions, settings)
    rng = np.random.default_rng(seed)
    initial = features.kernel
    if not settings.class_names:
        initial = rng.normal(scale=initial.std(), size=initial.shape)
    kernel = tf.Variable(initial.astype("float32"))
    bias = tf.Variable(tf.zeros(initial.shape[1]))
    text_kernel = tf.Variable(tf.zeros([initial.shape[1]] * 2))
    log_temperature = tf.Variable(
        np.log(settings.temperature or INITIAL_TEMPERATURE).astype("float32")
    )
    optimizer = adam(LEARNING_RATE, settings.steps)
    variables = [kernel, bias]
    if settings.temperature is None:
        variables.append(log_temperature)
    if settings.text_rate:
        variables.append(text_kernel)
    loss = _loss(settings)

    @tf.function
    def step(images, texts, inputs):
        with tf.GradientTape() as tape:
            if settings.dropout:
                images = tf.nn.dropout(images, settings.dropout)
            images = tf.math.l2_normalize(images @ kernel + bias, axis=1)
            # Adam's update of the kernel does not depend on the scale of the gradient,
            # so this factor scales the learning rate.
            changed = texts + settings.text_rate * (texts @ text_kernel)
            total = loss(
                images,
                tf.math.l2_normalize(changed, axis=1),
                tf.exp(log_temperature),
                **inputs,
            )
        optimizer.apply(tape.gradient(total, variables), variables)

    keras.utils.set_random_seed(seed)
    batches = Batches(len(rows), rng, settings, features, rows, captions)
    sums = [
        np.zeros(variable.shape, "float64") for variable in (kernel, bias, text_kernel)
    ]
    for number in range(settings.steps):
        batch, negative_groups = batches.next()
        numbers = texts.draw(batch, rng)
        inputs = {"pair_groups": texts.groups[numbers]}
        if settings.hard_negative_weight is not None:
            inputs["negative_groups"] = negative_groups
        if settings.teacher_weight:
            inputs["teacher_image_embeddings"] = teacher[batch]
            inputs["teacher_text_embeddings"] = texts.rows[numbers]
        step(rows[batch], texts.rows[numbers], inputs)
        if number >= settings.steps - settings.averaged_steps:
            for total, variable in zip(sums, (kernel, bias, text_kernel), strict=True):
                total += variable.numpy()
    kernel_mean, bias_mean, text_mean = (
        (total / settings.averaged_steps).astype("float32") for total in sums
    )
    return Projection(features, kernel_mean, bias_mean, settings.text_rate * text_mean)


def adam(learning_rate: float, steps: int):
    """Returns Adam with a warm-up to a learning rate and a cosine decay."""
    import keras

    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - WARMUP_STEPS,
        warmup_target=learning_rate,
        warmup_steps=WARMUP_STEPS,
    )
    return keras.optimizers.Adam(schedule)


class _TextTable:
    """Embeddings of the texts of a training, and the texts of each image.

    Attributes:
        rows: float array (texts, d).
        groups: int array (texts,). Texts with equal numbers have the same caption.
    """

    def __init__(
        self, features, captions: Sequence[Sequence[str]], settings: Settings
    ) -> None:
        # Texts are encoded faster in large batches than for each image.
        features.texts([text for texts in captions for text in texts])
        if settings.captions == "mean":
            sets = sorted({tuple(texts) for texts in captions})
            number_of = {texts: number for number, texts in enumerate(sets)}
            rows = [features.texts(texts).mean(axis=0) for texts in sets]
            self.rows = _unit_length(np.stack(rows))
            self.groups = np.arange(len(sets))
            self._choices = [np.array([number_of[tuple(texts)]]) for texts in captions]
            return
        if settings.captions == "first":
            captions = [texts[:1] for texts in captions]
        prompts = PROMPTS if settings.prompts else ("{}",)
        distinct = sorted({text for texts in captions for text in texts})
        number_of = {text: number for number, text in enumerate(distinct)}
        prompted = [prompt.format(text) for prompt in prompts for text in distinct]
        self.rows = features.texts(prompted)
        self.groups = np.tile(np.arange(len(distinct)), len(prompts))
        first_numbers = len(distinct) * np.arange(len(prompts))
        self._choices = []
        for texts in captions:
            numbers = np.array([number_of[text] for text in texts])
            self._choices.append((numbers[:, None] + first_numbers).ravel())

    def draw(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the number of a text for each image."""
        return np.array([rng.choice(self._choices[image]) for image in images])


class Batches:
    """Numbers of the images of each batch."""

    def __init__(
        self,
        num_images: int,
        rng: np.random.Generator,
        settings: Settings,
        features,
        rows: np.ndarray,
        captions: Sequence[Sequence[str]],
    ) -> None:
        self._num_images = num_images
        self._rng = rng
        self._order = np.zeros(0, int)
        self._neighbors = None
        if settings.hard_negative_weight is not None:
            self._neighbors = similar_images(rows @ features.kernel, captions)

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of the images and the groups of negatives, (n,)."""
        count = BATCH_SIZE if self._neighbors is None else BATCH_SIZE // 2
        if len(self._order) < count:
            more = self._rng.permutation(self._num_images)
            self._order = np.concatenate([self._order, more])
        batch, self._order = self._order[:count], self._order[count:]
        groups = np.arange(count)
        if self._neighbors is None:
            return batch, groups
        choices = self._rng.integers(self._neighbors.shape[1], size=count)
        negatives = self._neighbors[batch, choices]
        return np.concatenate([batch, negatives]), np.concatenate([groups, groups])


def similar_images(
    embeddings: np.ndarray, captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """Returns the most similar images of each image, int (images, NEIGHBORS).

    Images that share a caption with the image are left out.
    """
    embeddings = _unit_length(embeddings.astype("float32"))
    sets = [set(texts) for texts in captions]
    neighbors = np.empty((len(embeddings), NEIGHBORS), int)
    for start in range(0, len(embeddings), _BLOCK):
        cosines = embeddings[start : start + _BLOCK] @ embeddings.T
        # Many of the nearest images can have a caption in common with the image.
        nearest = np.argpartition(-cosines, _CANDIDATES, axis=1)[:, :_CANDIDATES]
        order = np.argsort(-np.take_along_axis(cosines, nearest, axis=1), axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
        for number, others in enumerate(nearest, start):
            negatives = [other for other in others if not sets[number] & sets[other]]
            neighbors[number] = negatives[:NEIGHBORS]
    return neighbors


def _loss(settings: Settings):
    """Returns the `PairLoss` of a training."""
    from align_keras.losses import ContrastiveLoss, DistillationLoss, SigmoidLoss

    if settings.loss == "sigmoid":
        loss = SigmoidLoss(share_equal_captions=True)
    else:
        loss = ContrastiveLoss(
            label_smoothing=settings.label_smoothing,
            share_equal_captions=True,
            hard_negative_weight=settings.hard_negative_weight or 1.0,
        )
    if not settings.teacher_weight:
        return loss
    return DistillationLoss(
        loss, embedding_weight=0.0, similarity_weight=settings.teacher_weight
    )


def _unit_length(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
