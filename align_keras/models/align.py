"""ALIGN: two encoders in one embedding space, and how they are trained."""

import keras
import tensorflow as tf

from align_keras.layers import L2Normalization, Temperature
from align_keras.losses.contrastive_loss import check_loss_arguments, directional_losses
from align_keras.losses.cross_replica import replica_count
from align_keras.models import embedding, preset_io
from align_keras.optimizers import Lamb, paper_schedule
from align_keras.text import WordPieceTokenizer
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGN(keras.Model):
    """Image encoder, text encoder and temperature, trained contrastively.

    Args:
        image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d).
        text_encoder: `TextEncoder`, token ids and mask → (n, d).
        vocabulary: list of str or None, WordPiece tokens in the order of their
            ids. Needed for captions; without it the model takes token ids only.
        normalization: str, how captions are normalised before WordPiece.
        initial_temperature: float > 0.
        learn_temperature: bool; False keeps it fixed.

    Call arguments:
        inputs: dict of `images`, uint8 or float (n, S, S, 3) in [0, 255],
            `token_ids`, int (n, L), and `padding_mask`, int or bool (n, L).

    Returns:
        dict of `image_embedding` and `text_embedding`, float32 (n, d) of unit
        length, and `similarity`, float32 (n,), each pair's own cosine divided
        by the temperature.

    Raises:
        InputError: if the encoders' widths differ, or the vocabulary is larger
            than the text encoder's.

    References:
        Jia et al. 2021, section 4.

    Example:

    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> model.temperature_layer.initial_temperature
    1.0
    """

    def __init__(
        self,
        image_encoder,
        text_encoder,
        vocabulary=None,
        normalization="bert_uncased",
        initial_temperature=1.0,
        learn_temperature=True,
        name="align",
        **kwargs,
    ):
        check_widths(image_encoder, text_encoder)
        check_vocabulary(vocabulary, text_encoder)
        # === Layers ===
        normalise_image = L2Normalization(name="image_embedding")
        normalise_text = L2Normalization(name="text_embedding")
        temperature_layer = Temperature(
            initial_temperature, trainable=learn_temperature, name="temperature"
        )

        # === Functional model ===
        images = keras.Input(image_encoder.input_shape[1:], name="images")
        length = (text_encoder.sequence_length,)
        token_ids = keras.Input(length, dtype="int32", name="token_ids")
        padding_mask = keras.Input(length, dtype="int32", name="padding_mask")
        text_inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        image_embedding = normalise_image(image_encoder(images))
        text_embedding = normalise_text(text_encoder(text_inputs))
        cosine = keras.layers.Dot(axes=1, name="cosine", dtype="float32")
        cosine = cosine([image_embedding, text_embedding])
        similarity = keras.layers.Reshape((), name="similarity", dtype="float32")(
            temperature_layer(cosine)
        )
        super().__init__(
            inputs={"images": images, **text_inputs},
            outputs={
                "image_embedding": image_embedding,
                "text_embedding": text_embedding,
                "similarity": similarity,
            },
            name=name,
            **kwargs,
        )

        # === Config ===
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.temperature_layer = temperature_layer
        self.normalise_image = normalise_image
        self.normalise_text = normalise_text
        self.vocabulary = list(vocabulary) if vocabulary is not None else None
        self.normalization = normalization
        self.initial_temperature = initial_temperature
        self.learn_temperature = learn_temperature
        self._tokenizer = None
        self.loss_metrics = [
            keras.metrics.Mean(name=metric)
            for metric in ("loss", "loss_i2t", "loss_t2i", "temperature")
        ]

    @property
    def image_size(self):
        """int, side of the image encoder's input in pixels."""
        return self.image_encoder.image_size

    @property
    def temperature(self):
        """Scalar float32 tensor, the current temperature."""
        return self.temperature_layer.temperature

    @property
    def tokenizer(self):
        """The `WordPieceTokenizer` of the model's vocabulary.

        Raises:
            InputError: if the model has no vocabulary.
        """
        if self.vocabulary is None:
            raise InputError(
                "captions need a vocabulary, and this model has none; pass "
                'vocabulary=[…] to ALIGN or from_preset("…", vocabulary=[…]).'
            )
        if self._tokenizer is None:
            self._tokenizer = WordPieceTokenizer(
                self.vocabulary,
                sequence_length=self.text_encoder.sequence_length,
                normalization=self.normalization,
            )
        return self._tokenizer

    # === Training ===

    def compile(
        self,
        optimizer=None,
        *,
        label_smoothing=0.1,
        reduction="sum",
        share_equal_captions=False,
        **kwargs,
    ):
        """Sets the optimizer and the loss; the defaults are the paper's.

        Args:
            optimizer: Keras optimizer. By default `Lamb` with the paper's
                schedule: 10k steps of warm-up to 1e-3, then linearly to zero
                in 1.2M steps.
            label_smoothing: float in [0, 1].
            reduction: `"sum"` or `"mean"` of both directions.
            share_equal_captions: bool; pairs of a batch whose captions are
                equal are each other's positives.
            **kwargs: as `keras.Model.compile` (`jit_compile`,
                `steps_per_execution` …); without `loss` and `metrics`, which
                are built in.

        Raises:
            InputError: if an argument isn't as above.

        References:
            Jia et al. 2021, section 5.1.
        """
        check_loss_arguments(label_smoothing, reduction)
        if kwargs.get("loss") is not None:
            raise InputError(
                "loss can't be given, received "
                f"{kwargs['loss']!r}; ALIGN has its own contrastive loss: use "
                "label_smoothing, reduction and share_equal_captions."
            )
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer or Lamb(paper_schedule()), **kwargs)
        # Variables made inside the first step would make it trace twice.
        self.optimizer.build(self.trainable_variables)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.share_equal_captions = share_equal_captions

    def get_compile_config(self):
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "share_equal_captions": self.share_equal_captions,
        }

    def compile_from_config(self, config):
        optimizer = keras.optimizers.deserialize(config["optimizer"])
        self.compile(**{**config, "optimizer": optimizer})

    @property
    def metrics(self):
        return self.loss_metrics

    def compute_losses(self, inputs, training):
        """Runs both towers once and returns `(loss_i2t, loss_t2i)`."""
        outputs = self(inputs, training=training)
        return directional_losses(
            outputs["image_embedding"],
            outputs["text_embedding"],
            self.temperature,
            label_smoothing=self.label_smoothing,
            pair_groups=caption_groups(inputs["token_ids"])
            if self.share_equal_captions
            else None,
        )

    def reduce_losses(self, loss_i2t, loss_t2i):
        """Combines both directions by `reduction`."""
        total = loss_i2t + loss_t2i
        return total if self.reduction == "sum" else total / 2.0

    def update_loss_metrics(self, loss_i2t, loss_t2i):
        """Feeds the running means; returns them by name."""
        loss = self.reduce_losses(loss_i2t, loss_t2i)
        values = (loss, loss_i2t, loss_t2i, self.temperature)
        for metric, value in zip(self.loss_metrics, values, strict=True):
            metric.update_state(value)
        return {metric.name: metric.result() for metric in self.loss_metrics}

    def train_step(self, data):
        """One update on a batch of `images`, `token_ids` and `padding_mask`."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            losses = self.compute_losses(inputs, training=True)
            # The optimizer sums gradients over replicas; each replica's loss
            # is the mean of its own rows.
            loss = self.reduce_losses(*losses) / replica_count()
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        return self.update_loss_metrics(*losses)

    def test_step(self, data):
        """The losses of a batch, without an update."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        return self.update_loss_metrics(*self.compute_losses(inputs, training=False))

    def _symbolic_build(self, *args, **kwargs):
        """Does nothing: the functional model and its metrics are built.

        Keras would run a first batch through the train step, which costs a
        batch of the input and fails on strings under a strategy.
        """

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; takes raw datasets of `image` and `caption` too.

        Args:
            x: batched `tf.data.Dataset` of dicts: `images`, `token_ids` and
                `padding_mask`; or raw `image` (file bytes, or uint8 pixels)
                and `caption` (strings).
            *args: as `keras.Model.fit`.
            **kwargs: as `keras.Model.fit`.
        """
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # else Keras warns at each call
        return super().fit(embedding.prepare(self, x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`; takes raw datasets too (see `fit`)."""
        return super().evaluate(embedding.prepare(self, x), *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        """As `keras.Model.predict`; takes raw datasets too (see `fit`)."""
        return super().predict(embedding.prepare(self, x), *args, **kwargs)

    # === Embedding ===

    def encode_images(self, images, batch_size=64):
        """Embeds pictures.

        Args:
            images: list of paths, of file bytes, or of uint8 arrays (height,
                width, 3), of any size; or one uint8 array (n, height, width, 3).
            batch_size: int ≥ 1.

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: if a picture can't be read; names it.
        """
        return embedding.encode_images(self, images, batch_size)

    def encode_texts(self, texts, batch_size=256):
        """Embeds captions.

        Args:
            texts: list of str.
            batch_size: int ≥ 1.

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: if the model has no vocabulary, or `texts` is one str.
        """
        return embedding.encode_texts(self, texts, batch_size)

    # === Saving ===

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Builds a model from a preset's name or from a run's folder.

        Args:
            preset: str, a name of `align_keras.presets()`, or a folder that
                `save_to_preset` or a training run wrote.
            load_weights: bool, for folders; names have no weights.
            **kwargs: for names: `vocabulary`, `vocabulary_size`, `image_size`,
                `sequence_length`, `projection_dim` and the arguments of `ALIGN`.

        Returns:
            `ALIGN`.

        Raises:
            InputError: if there is no such preset or folder.

        Example:

        >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.image_size
        64
        """
        return preset_io.from_preset(cls, preset, load_weights, **kwargs)

    def save_to_preset(self, directory):
        """Writes `config.json`, `model.weights.h5` and `vocabulary.txt`.

        Args:
            directory: str, a folder; created if need be.
        """
        preset_io.save_to_preset(self, directory)

    def get_config(self):
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "vocabulary": self.vocabulary,
            "normalization": self.normalization,
            "initial_temperature": self.initial_temperature,
            "learn_temperature": self.learn_temperature,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("image_encoder", "text_encoder"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def check_widths(image_encoder, text_encoder):
    """Raises unless both encoders give embeddings of one width."""
    image_dim = image_encoder.output_shape[-1]
    text_dim = text_encoder.output_shape[-1]
    if image_dim != text_dim:
        raise InputError(
            "image_encoder and text_encoder must give one width, received "
            f"{image_dim} and {text_dim}; set projection_dim of either."
        )


def check_vocabulary(vocabulary, text_encoder):
    """Raises if the vocabulary has tokens that the text encoder lacks."""
    if vocabulary is not None and len(vocabulary) > text_encoder.vocabulary_size:
        raise InputError(
            f"vocabulary may hold at most {text_encoder.vocabulary_size} tokens, the "
            f"text encoder's vocabulary_size, received {len(vocabulary)}; build the "
            "text encoder with vocabulary_size=len(vocabulary)."
        )


def caption_groups(token_ids):
    """Returns int64 (n,): equal for equal rows, by a hash of the token ids."""
    length = token_ids.shape[1]
    multipliers = tf.random.stateless_uniform(
        (length,), (length, 64), None, None, tf.int64
    )
    return tf.reduce_sum(tf.cast(token_ids, tf.int64) * multipliers, axis=1)
