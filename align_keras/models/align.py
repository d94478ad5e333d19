"""ALIGN: an image encoder and a text encoder with a common embedding space."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.losses.contrastive_loss import ContrastiveLoss
from align_keras.models.align_backbone import ALIGNBackbone, check_widths
from align_keras.models.contrastive_model import ContrastiveModel
from align_keras.models.embedding import EmbeddingMethods
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.lora import adapted_layers, merged_while_saving
from align_keras.models.loss_metrics import LossMetrics
from align_keras.models.open_preset import (
    argument_names,
    check_arguments,
    open_backbone,
    open_keras_file,
)
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.trainable_layers import set_trainable_flag
from align_keras.preprocessing.image_converter import ALIGNImageConverter
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.preprocessing.tokenizer import ALIGNTokenizer
from align_keras.presets.locate import is_keras_file, locate_preset
from align_keras.presets.saving import (
    atomic_keras_path,
    save_task,
)
from align_keras.presets.sizes import BuiltinPresets
from align_keras.presets.stored_config import (
    damage_reported,
    named_preprocessor,
    read_preprocessor,
    read_task,
)
from align_keras.text.vocabulary import check_vocabulary
from align_keras.utils.addresses import is_url
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError

# Name under which a weights file holds the states of the seed generators.
_SEEDS = "seeds"


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGN(EmbeddingMethods, ContrastiveModel):
    """Dual encoder for images and captions, trained with a contrastive loss.

    `ALIGN` is a task of KerasHub. `fit`, `evaluate` and `predict` accept raw pairs,
    which the preprocessor converts. `from_encoders` builds a task from two encoders and
    a vocabulary.

    Args:
        backbone: `ALIGNBackbone`.
        preprocessor: `ALIGNPreprocessor`, or None for a model that accepts only
            preprocessed inputs.
        compile: call `compile()` with its default arguments.
        **kwargs: `name` and `trainable`, as for every Keras model.

    Call arguments:
        inputs: dict of `images`, uint8 or float (n, S, S, 3) in [0, 255],
            `token_ids`, int (n, L), and `padding_mask`, int or bool (n, L).

    Returns:
        dict of `image_embedding` and `text_embedding`, float32 (n, d), rows of unit
        length, and `similarity`, float32 (n,), the cosine of each pair divided by the
        temperature.

    Raises:
        InputError: if the sizes of the backbone and the preprocessor differ, if the
            vocabulary is larger than that of the text encoder, or if an argument is
            unknown.

    References:
        Jia et al. 2021, section 4.

    Example:

    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> model.backbone.initial_temperature
    1.0
    """

    backbone_cls = ALIGNBackbone
    preprocessor_cls = ALIGNPreprocessor
    presets = BuiltinPresets()

    def __init__(
        self,
        backbone: ALIGNBackbone,
        preprocessor: ALIGNPreprocessor | None = None,
        compile: bool = True,
        name: str = "align",
        **kwargs: Any,
    ) -> None:
        argument_names = [*parameters_of(ALIGN.__init__), "trainable"]
        refuse_unknown("ALIGN", kwargs, argument_names)
        if preprocessor is not None:
            check_preprocessor(backbone, preprocessor)
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.loss_metrics = [LossMetrics(ContrastiveLoss.parts)]

        # === Functional model ===
        # The model has the layers of the backbone, so both have the same weights, with
        # the same names.
        super().__init__(
            inputs=backbone.input,
            outputs=backbone.output,
            compile=compile,
            name=name,
            **kwargs,
        )

    @classmethod
    def from_encoders(
        cls,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        vocabulary: Sequence[str] | None = None,
        normalization: str = "bert_uncased",
        initial_temperature: float = 1.0,
        learn_temperature: bool = True,
        dtype: str | keras.DTypePolicy | None = None,
        compile: bool = True,
        name: str = "align",
        **kwargs: Any,
    ) -> "ALIGN":
        """Builds a model from its encoders and a vocabulary.

        Args:
            image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d).
            text_encoder: `TextEncoder`, token ids and mask → (n, d).
            vocabulary: WordPiece tokens in the order of their ids. A model
                without a vocabulary accepts token ids only, no captions.
            normalization: `"bert_uncased"` or `"bert_cased"`, normalization of
                captions before WordPiece.
            initial_temperature: as in `ALIGNBackbone`.
            learn_temperature: as in `ALIGNBackbone`.
            dtype: as in `ALIGNBackbone`.
            compile: as in `ALIGN`.
            name: name of the model.
            **kwargs: `trainable`, as for every Keras model.

        Raises:
            InputError: if the embeddings of the encoders have different widths, if the
                vocabulary is larger than that of the text encoder, lacks a special
                token or contains a token twice.

        Example:

        >>> model = ALIGN.from_encoders(
        ...     ImageEncoder.from_variant("nano", 16, image_size=64),
        ...     TextEncoder.from_variant(
        ...         "bert_tiny", projection_dim=16, vocabulary_size=100
        ...     ),
        ... )
        >>> model.image_size
        64
        """
        check_widths(image_encoder, text_encoder)
        tokenizer = None
        if vocabulary is not None:
            check_vocabulary_size(len(vocabulary), text_encoder)
            check_vocabulary(list(vocabulary), "vocabulary")
            tokenizer = ALIGNTokenizer(
                vocabulary,
                sequence_length=text_encoder.sequence_length,
                normalization=normalization,
            )
        backbone = ALIGNBackbone(
            image_encoder,
            text_encoder,
            initial_temperature=initial_temperature,
            learn_temperature=learn_temperature,
            dtype=dtype,
        )
        converter = ALIGNImageConverter(image_encoder.image_size)
        preprocessor = ALIGNPreprocessor(tokenizer, converter)
        return cls(backbone, preprocessor, compile=compile, name=name, **kwargs)

    @property
    def image_encoder(self) -> ImageEncoder:
        """Image encoder of the backbone."""
        return self.backbone.image_encoder

    @property
    def text_encoder(self) -> TextEncoder:
        """Text encoder of the backbone."""
        return self.backbone.text_encoder

    @property
    def temperature_layer(self) -> keras.layers.Layer:
        """Layer that divides cosines by the temperature."""
        return self.backbone.temperature_layer

    @property
    def normalize_image(self) -> keras.layers.Layer:
        """Layer that scales image embeddings to unit length."""
        return self.backbone.normalize_image

    @property
    def normalize_text(self) -> keras.layers.Layer:
        """Layer that scales text embeddings to unit length."""
        return self.backbone.normalize_text

    @property
    def image_size(self) -> int:
        """Height and width of the images that the image encoder expects, in pixels."""
        return self.backbone.image_size

    @property
    def temperature(self) -> tf.Tensor:
        """Current temperature, a scalar float32 tensor."""
        return self.backbone.temperature

    @property
    def tokenizer(self) -> ALIGNTokenizer:
        """`ALIGNTokenizer` of the preprocessor.

        Raises:
            InputError: if the model has no preprocessor or no vocabulary.
        """
        return self.require_preprocessor().require_tokenizer()

    @property
    def vocabulary(self) -> list[str] | None:
        """Tokens in the order of their ids, or None for a model without a tokenizer."""
        if self.preprocessor is None or self.preprocessor.tokenizer is None:
            return None
        return self.preprocessor.tokenizer.vocabulary

    @property
    def normalization(self) -> str:
        """Normalization of captions before WordPiece."""
        if self.vocabulary is None:
            return "bert_uncased"
        return self.tokenizer.normalization

    # === Quantization and low-rank adaptation ===

    def quantize(self, mode: str | None = None, **kwargs: Any) -> None:
        """Quantizes the weights of both encoders, as `keras.Model.quantize`.

        Args:
            mode: quantization of Keras, such as `"int8"`.
            **kwargs: other arguments of `keras.Model.quantize`.
        """
        # `keras.Model.quantize` fails for the layers of the preprocessor.
        self.backbone.quantize(mode, **kwargs)
        self.train_function = None
        self.test_function = None
        self.predict_function = None

    def enable_lora(
        self, rank: int, target_layer_names: Sequence[str] | None = None
    ) -> None:
        """Freezes the model and adds trainable low-rank factors to some layers.

        All other weights are frozen, with the temperature. Call `compile` again
        afterwards. `Encoder.set_training` adapts one encoder.

        Args:
            rank: ≥ 1, rank of the factors.
            target_layer_names: names of the layers to adapt. None uses
                `ALIGNBackbone.default_lora_layer_names`.

        Raises:
            InputError: if the rank is out of range, or no layer has one of the names.

        References:
            Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
        """
        self.backbone.enable_lora(rank, target_layer_names)

    def merge_lora(self) -> None:
        """Merges the low-rank factors into the kernels, which makes a plain model.

        The embeddings stay the same up to rounding. Call `compile` again afterwards.
        """
        self.backbone.merge_lora()

    def without_lora(self) -> "ALIGN":
        """Returns a plain copy with merged kernels, or the model if it has no LoRA.

        Exports and presets contain the weights of this copy.
        """
        if not adapted_layers(self.backbone):
            return self
        # A quantized kernel is quantized again when it is saved.
        with tempfile.TemporaryDirectory() as folder:
            self.save_to_preset(folder)
            return type(self).from_preset(folder)

    def save_lora_weights(self, filepath: str | os.PathLike) -> None:
        """Writes the low-rank factors to a file.

        The file also has all other weights that are trained, such as the temperature
        or the projection of the other encoder. Load it with `load_lora_weights` onto
        the model with which the training began.

        Args:
            filepath: str or path that ends in `.lora.h5`.

        Raises:
            InputError: if the model has no factors, or the name has another ending.
        """
        self.backbone.save_lora_weights(filepath)

    def load_lora_weights(self, filepath: str | os.PathLike) -> None:
        """Loads low-rank factors, and enables LoRA if it isn't enabled.

        Call `compile` again afterwards.

        Args:
            filepath: str or path of a file of `save_lora_weights`.

        Raises:
            InputError: if the file is damaged, or was trained from another model.

        Example:

        ```python
        model = align_keras.ALIGN.from_preset("align_nano", vocabulary_size=100)
        model.enable_lora(4)
        model.save_lora_weights("factors.lora.h5")
        model.load_lora_weights("factors.lora.h5")
        ```
        """
        self.backbone.load_lora_weights(filepath)

    # === Saving ===

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        revision: str | None = None,
        token: str | None = None,
        **kwargs: Any,
    ) -> "ALIGN":
        """Builds a model from a preset name, a folder, a file or Hugging Face.

        The preset is one of:

        - a name of `align_keras.models.presets()`. The weights are random, except those
          of `"align_small_en"`, the trained model that comes with the package.
        - a folder that `save_to_preset` or a training run wrote.
        - a `.keras` file. The state of its optimizer is restored too.
        - a folder with the files of kakaobrain/align-base: config.json,
          model.safetensors, vocab.txt, and preprocessor_config.json or
          processor_config.json.
        - a repository on Hugging Face, such as `"hf://kakaobrain/align-base"`. It is
          downloaded once and then read from the cache. It contains the files of
          `push_to_hub`, of `save_to_preset` or of transformers. The name may end in `@`
          and a branch, tag or commit: `"hf://user/model@v1"`.
        - a model on Kaggle, `"kaggle://user/model/keras/variation"`. kagglehub
          downloads it.

        Args:
            preset: name, path or address, as described above.
            load_weights: load the weights of a folder. A preset name has no
                weights to load, and a `.keras` file always loads them.
            revision: branch, tag or commit of a model on Hugging Face.
            token: token of Hugging Face, which replaces that of `HF_TOKEN` or of `hf
                auth login`.
            **kwargs: for a preset name, the arguments of `ALIGN.from_encoders`,
                `ImageEncoder` and `TextEncoder` that the name doesn't determine. An
                argument that both encoders accept is passed to both. For a folder,
                arguments that don't change the meaning of the weights: `dtype`,
                `image_size`, `sequence_length`, `dropout`, `drop_connect_rate`,
                `batch_norm_momentum`, `synchronized`, `virtual_batch_size`,
                `freeze_batch_statistics`, `rematerialize`, `locked`, `trainable`,
                `learn_temperature`, `compile`, `name`. For every preset except a
                `.keras` file, `training`, `blocks` and `rank` choose the weights of
                both encoders that are trained, as in `ImageEncoder.set_training`. An
                argument that is None is ignored.

        Raises:
            InputError: if the preset, folder or file is unknown, damaged or doesn't
                fit the model, or if an argument is unknown. The message lists the names
                and shapes of tensors that don't fit. For an export, it names the
                function that opens it.

        Example:

        >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.image_size
        64
        """
        options = {name: value for name, value in kwargs.items() if value is not None}
        path = locate_preset(preset, revision, token, load_weights)
        if path is not None and is_keras_file(path):
            return open_keras_file(cls.backbone_cls, path, load_weights, options)
        of_task = {"compile", "name", "vocabulary", "normalization"}
        check_arguments(path, options, argument_names(cls.backbone_cls) | of_task)
        sizes = (options.get("image_size"), options.get("sequence_length"))
        vocabulary = options.pop("vocabulary", None)
        normalization = options.pop("normalization", "bert_uncased")
        task = {name: options.pop(name) for name in of_task & options.keys()}
        if vocabulary is not None:
            options.setdefault("vocabulary_size", len(vocabulary))
        backbone = open_backbone(cls.backbone_cls, preset, path, load_weights, options)
        if path is None:
            preprocessor = named_preprocessor(
                str(preset), *sizes, vocabulary, normalization
            )
            return cls.from_config(
                {"backbone": backbone, "preprocessor": preprocessor, **task}
            )
        fault = f"The files in {path} don't describe an ALIGN"
        with damage_reported(fault, "Save the model again, or finish the run"):
            saved_task = read_task(path)
            if options.keys() & {"training", "locked", "trainable"}:
                # The arguments replace the saved flag.
                saved_task.pop("trainable", None)
            preprocessor = read_preprocessor(path, *sizes)
            config = {"backbone": backbone, "preprocessor": preprocessor}
            return cls.from_config({**config, **saved_task, **task})

    def save_to_preset(self, preset_dir: str | os.PathLike) -> None:
        """Writes the files of a KerasHub preset to a folder.

        The files are `config.json`, `task.json`, `preprocessor.json`, `tokenizer.json`,
        `image_converter.json`, `metadata.json`, `model.weights.h5` and
        `assets/tokenizer/vocabulary.txt`. `config.json` describes the backbone, lists
        its frozen layers and contains the SHA-256 of the weights. The state of the
        optimizer is not saved. Use `model.save("….keras")` to keep it.

        Args:
            preset_dir: str or path of the folder, which is created if it doesn't exist.

        Raises:
            InputError: if the folder contains a SavedModel.
        """
        with merged_while_saving(self.backbone):
            save_task(self, preset_dir)

    def save(
        self,
        filepath: str | os.PathLike,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a file, as `keras.Model.save`.

        A `.keras` file replaces an earlier file only when it is complete. The file of a
        model with LoRA has merged kernels and no optimizer.

        Args:
            filepath: str or path that ends in `.keras`.
            overwrite: replace an existing file without a question.
            zipped: as in `keras.Model.save`.
            **kwargs: other arguments of `keras.Model.save`.

        Raises:
            InputError: if the name ends in `.h5` or `.hdf5`.
        """
        # Keras can write this format, but it can't open it for a custom model.
        if str(filepath).endswith((".h5", ".hdf5")):
            raise InputError(
                "filepath must end in .keras, because Keras can't open an HDF5 file of "
                f"this model. Received: {filepath}. Use a name such as model.keras."
            )
        options = {"overwrite": overwrite, "zipped": zipped, **kwargs}
        is_file = str(filepath).endswith(".keras") and not is_url(filepath)
        is_replaceable = overwrite or not os.path.exists(filepath)
        with contextlib.ExitStack() as stack:
            # Keras would round merged kernels to the compute dtype.
            stack.enter_context(merged_while_saving(self))
            if is_file and is_replaceable:
                filepath = stack.enter_context(atomic_keras_path(filepath))
            super().save(filepath, **options)

    def get_config(self) -> dict:
        config: dict[str, Any] = super().get_config()
        if not self.trainable:
            config["trainable"] = False
        return config

    @classmethod
    def from_config(cls, config: dict) -> "ALIGN":
        config = dict(config)
        is_trainable = config.pop("trainable", True)
        model = super().from_config(config)
        # The configuration of the backbone contains the flags of the layers.
        set_trainable_flag(model, is_trainable)
        return model

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras doesn't save the random state. Without it, `fit` would draw different
        # dropout masks after a `.keras` file is loaded.
        seeds = self._seed_states()
        if self.compiled and seeds:
            store[_SEEDS] = np.stack([seed.numpy() for seed in seeds])

    def load_own_variables(self, store: Any) -> None:
        seeds = self._seed_states()
        states = store[_SEEDS] if _SEEDS in store.keys() else ()
        if self.compiled and len(states) == len(seeds):
            for seed, state in zip(seeds, states, strict=True):
                seed.assign(state)

    def _seed_states(self) -> list[keras.Variable]:
        """Returns the states of the seed generators of all layers."""
        return [v for v in self.variables if v.name == "seed_generator_state"]


def check_preprocessor(
    backbone: ALIGNBackbone, preprocessor: ALIGNPreprocessor
) -> None:
    """Raises if the sizes of a backbone and a preprocessor differ."""
    side = preprocessor.image_converter.side
    if side != backbone.image_size:
        raise InputError(
            "image_size of the image converter must be that of the image encoder, "
            f"{backbone.image_size}. Received: image_size={side}. Pass "
            f"ALIGNImageConverter({backbone.image_size})."
        )
    tokenizer = preprocessor.tokenizer
    if tokenizer is None:
        return
    check_vocabulary_size(tokenizer.vocabulary_size(), backbone.text_encoder)
    length = backbone.text_encoder.sequence_length
    if tokenizer.sequence_length != length:
        raise InputError(
            "sequence_length of the tokenizer must be that of the text encoder, "
            f"{length}. Received: sequence_length={tokenizer.sequence_length}. Pass "
            f"ALIGNTokenizer(vocabulary, sequence_length={length})."
        )


def check_vocabulary_size(vocabulary_size: int, text_encoder: TextEncoder) -> None:
    """Raises unless the text encoder has an embedding for each token."""
    if vocabulary_size > text_encoder.vocabulary_size:
        raise InputError(
            f"vocabulary must have at most {text_encoder.vocabulary_size} tokens, the "
            f"vocabulary_size of the text encoder. Received: {vocabulary_size} tokens. "
            "Build the text encoder with vocabulary_size=len(vocabulary)."
        )
