"""Serving functions of a SavedModel and the variables that they use."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.text.padding import trim_padding

# Number of captions and of images in a chunk. Larger requests are embedded chunk by
# chunk, so that activations take the memory of one chunk only. Larger chunks are not
# faster. The activations of BERT-large take about 5 MB per caption, and those of
# EfficientNet-B7 about 50 MB per image.
CAPTIONS_PER_CHUNK = 128
IMAGES_PER_CHUNK = 32


class ServedModel(tf.Module):
    """Serving functions of one or both encoders of an ALIGN, with their preprocessing.

    The Keras model is hidden from TensorFlow, which would otherwise store its variables
    a second time.

    Args:
        model: `ALIGN` with a vocabulary.
        serves_images: include the image encoder.
        serves_texts: include the text encoder.
        weights: `"bfloat16"` or `"float16"` to store kernels and embedding tables in
            half the size, or None to keep their dtypes.

    Attributes:
        functions: dict from names of signatures to `tf.function`s.
        preprocessing: dict from `"image"` and `"text"` to settings of preprocessing.
    """

    def __init__(
        self,
        model: Any,
        serves_images: bool = True,
        serves_texts: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__(name="align")
        variables = []
        if serves_images:
            variables += model.image_encoder.variables
        if serves_texts:
            variables += model.text_encoder.variables
        if serves_images and serves_texts:
            variables += model.temperature_layer.variables
        self.stored_variables = [_stored(variable, weights) for variable in variables]
        compressed_variables = []
        if weights is not None:
            compressed_variables = list(
                zip(variables, self.stored_variables, strict=True)
            )
        self._untracked = _Untracked(
            model=model,
            converter=model.preprocessor.image_converter,
            compressed_variables=compressed_variables,
            # All signatures share one trace of each of these functions.
            embed_files=tf.function(self._embed_files, autograph=False),
            embed_pixels=tf.function(self._embed_pixels, autograph=False),
            embed_tokens=tf.function(self._embed_tokens, autograph=False),
        )
        functions: dict[str, Callable] = {}
        self.preprocessing: dict[str, dict[str, Any]] = {}
        if serves_images:
            self.preprocessing["image"] = {"image_size": model.image_size}
            functions |= self._image_functions()
            functions["serving_default"] = functions["encode_image"]
        if serves_texts:
            self.preprocessing["text"] = {
                "normalization": model.tokenizer.normalization,
                "sequence_length": model.tokenizer.sequence_length,
                "vocabulary_size": len(model.tokenizer.vocabulary),
            }
            functions |= self._text_functions()
            functions["serving_default"] = functions["encode_text"]
            # Programs that load the graph can call this function. It is not a
            # signature, so TensorFlow Serving does not offer it.
            self.tokenize = tf.function(
                model.tokenizer.tokenize,
                input_signature=[tf.TensorSpec((None,), tf.string, name="captions")],
            )
        if serves_images and serves_texts:
            functions |= self._image_text_functions()
        self.functions = functions

    # === Signatures ===

    def _image_functions(self) -> dict[str, Callable]:
        images_spec = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")

        def encode_image(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            embedding, valid = self._embed_files_in_chunks(image_bytes)
            return {"image_embedding": embedding, "valid": valid}

        def encode_image_pixels(images: tf.Tensor) -> dict[str, tf.Tensor]:
            def embed(images: tf.Tensor) -> tf.Tensor:
                pixels = self._untracked.converter.convert(_pad_empty_batch(images))
                return self._untracked.embed_pixels(pixels)[: tf.shape(images)[0]]

            embedding = apply_in_chunks(embed, IMAGES_PER_CHUNK, images)
            return {"image_embedding": embedding}

        return {
            "encode_image": self._function(encode_image, _string_spec("image_bytes")),
            "encode_image_pixels": self._function(encode_image_pixels, images_spec),
        }

    def _text_functions(self) -> dict[str, Callable]:
        def encode_text(captions: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"text_embedding": self._embed_captions_in_chunks(captions)}

        def encode_token_ids(
            token_ids: tf.Tensor, padding_mask: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            embedding = apply_in_chunks(
                self._untracked.embed_tokens,
                CAPTIONS_PER_CHUNK,
                token_ids,
                padding_mask,
            )
            return {"text_embedding": embedding}

        ids = tf.TensorSpec((None, None), tf.int32, name="token_ids")
        mask = tf.TensorSpec((None, None), tf.int32, name="padding_mask")
        return {
            "encode_text": self._function(encode_text, _string_spec("captions")),
            "encode_token_ids": self._function(encode_token_ids, ids, mask),
        }

    def _image_text_functions(self) -> dict[str, Callable]:
        """Returns the functions that need both encoders."""

        def similarity(
            image_bytes: tf.Tensor, captions: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            images, valid = self._embed_files_in_chunks(image_bytes)
            texts = self._embed_captions_in_chunks(captions)
            return {
                "cosine": tf.matmul(images, texts, transpose_b=True),
                "valid": valid,
            }

        def classify(
            image_bytes: tf.Tensor, class_names: tf.Tensor, templates: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            images, valid = self._embed_files_in_chunks(image_bytes)

            def embed(class_names: tf.Tensor) -> tf.Tensor:
                prompts = fill_templates(class_names, templates)
                texts = self._embed_captions_in_chunks(tf.reshape(prompts, [-1]))
                shape = tf.concat([tf.shape(prompts), tf.shape(texts)[1:]], axis=0)
                return self._call_model(
                    lambda model: model.normalize_text(
                        tf.reduce_mean(tf.reshape(texts, shape), axis=1)
                    )
                )

            chunk_size = CAPTIONS_PER_CHUNK // tf.maximum(tf.size(templates), 1)
            classes = apply_in_chunks(embed, tf.maximum(chunk_size, 1), class_names)
            cosine = tf.matmul(images, classes, transpose_b=True)
            logits = self._call_model(lambda model: model.temperature_layer(cosine))
            return {"scores": tf.nn.softmax(logits), "valid": valid}

        files = _string_spec("image_bytes")
        captions = _string_spec("captions")
        names = _string_spec("class_names")
        templates = _string_spec("templates")
        return {
            "similarity": self._function(similarity, files, captions),
            "classify": self._function(classify, files, names, templates),
        }

    # === Embedding ===

    def _embed_files_in_chunks(
        self, image_bytes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        embed_files = self._untracked.embed_files
        return apply_in_chunks(embed_files, IMAGES_PER_CHUNK, image_bytes)

    def _embed_captions_in_chunks(self, captions: tf.Tensor) -> tf.Tensor:
        def embed(captions: tf.Tensor) -> tf.Tensor:
            tokens = self._untracked.model.tokenizer.tokenize(captions)
            return self._untracked.embed_tokens(**trim_padding(tokens))

        return apply_in_chunks(embed, CAPTIONS_PER_CHUNK, captions)

    def _embed_files(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns embeddings, zero for files that are not images, and a bool mask."""
        images, valid = self._untracked.converter.convert_readable(image_bytes)
        embedding = self._untracked.embed_pixels(_pad_empty_batch(images))
        embedding = embedding[: tf.shape(image_bytes)[0]]
        return tf.where(valid[:, tf.newaxis], embedding, 0.0), valid

    def _embed_pixels(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._call_model(
            lambda model: model.normalize_image(
                model.image_encoder(pixels, training=False)
            )
        )

    def _embed_tokens(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
        tokens = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self._call_model(
            lambda model: model.normalize_text(
                model.text_encoder(tokens, training=False)
            )
        )

    def _call_model(self, compute: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Calls a function with the model, whose layers use the stored variables."""
        untracked = self._untracked
        if not untracked.compressed_variables:
            return compute(untracked.model)
        values = [
            (variable, tf.cast(stored, variable.dtype))
            for variable, stored in untracked.compressed_variables
        ]
        with keras.StatelessScope(state_mapping=values):
            return compute(untracked.model)

    def _function(self, call: Callable, *specs: tf.TensorSpec) -> Callable:
        return tf.function(call, input_signature=specs, autograph=False)


class _Untracked:
    """Attributes of a `ServedModel` that TensorFlow must not store.

    TensorFlow stores the attributes of a `tf.Module`, but not those of a plain object.

    Attributes:
        converter: `ALIGNImageConverter` of the model.
        compressed_variables: list of (Keras variable, stored `tf.Variable`). It is
            empty if the weights keep their dtypes.
        embed_files: function that embeds the contents of image files.
        embed_pixels: function that embeds preprocessed images.
        embed_tokens: function that embeds token ids with their padding masks.
    """

    def __init__(
        self,
        model: Any,
        converter: Any,
        compressed_variables: list[tuple[keras.Variable, tf.Variable]],
        embed_files: Callable,
        embed_pixels: Callable,
        embed_tokens: Callable,
    ) -> None:
        self.model = model
        self.converter = converter
        self.compressed_variables = compressed_variables
        self.embed_files = embed_files
        self.embed_pixels = embed_pixels
        self.embed_tokens = embed_tokens


def _stored(variable: keras.Variable, weights: str | None) -> tf.Variable:
    """Returns the variable to store: a copy in the dtype `weights`, or the original."""
    # Biases and statistics take little space and keep their dtype.
    is_large = len(variable.shape) > 1 and "float" in variable.dtype
    if weights is None or not is_large:
        return variable.value
    value = tf.cast(variable.value, weights)
    return tf.Variable(value, name=variable.name, trainable=False)


def _string_spec(name: str) -> tf.TensorSpec:
    return tf.TensorSpec((None,), tf.string, name=name)


def _pad_empty_batch(images: tf.Tensor) -> tf.Tensor:
    """Adds a black image to an empty batch and returns other batches unchanged."""
    # Fused convolutions return a wrong shape for an empty batch.
    missing = tf.maximum(0, 1 - tf.shape(images)[0])
    return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])


def apply_in_chunks(
    compute: Callable, chunk_size: int | tf.Tensor, *rows: tf.Tensor
) -> Any:
    """Applies a function to chunks of rows and concatenates the outputs.

    Args:
        compute: function of tensors. If there are no rows, it is called once with
            empty tensors.
        chunk_size: int or scalar tensor, maximum number of rows in a chunk.
        *rows: tensors with the same number of rows.

    Returns:
        The concatenated outputs in the structure that `compute` returns.
    """
    specs = [tf.TensorSpec((None, *row.shape[1:]), row.dtype) for row in rows]
    traced = tf.function(compute, autograph=False).get_concrete_function(*specs)
    outputs = traced.structured_outputs
    num_chunks = tf.maximum(-(-tf.shape(rows[0])[0] // chunk_size), 1)

    def step(
        chunk: tf.Tensor, arrays: list[tf.TensorArray]
    ) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        window = slice(chunk * chunk_size, (chunk + 1) * chunk_size)
        values = tf.nest.flatten(traced(*(tensor[window] for tensor in rows)))
        updated_arrays = [
            array.write(chunk, value)
            for array, value in zip(arrays, values, strict=True)
        ]
        return chunk + 1, updated_arrays

    arrays = [
        tf.TensorArray(
            spec.dtype, num_chunks, element_shape=spec.shape, infer_shape=False
        )
        for spec in tf.nest.flatten(outputs)
    ]
    _, arrays = tf.while_loop(
        lambda chunk, _: chunk < num_chunks, step, (0, arrays), parallel_iterations=1
    )
    return tf.nest.pack_sequence_as(outputs, [array.concat() for array in arrays])


def fill_templates(class_names: tf.Tensor, templates: tf.Tensor) -> tf.Tensor:
    """Replaces the first `{}` of each template by each class name.

    Args:
        class_names: str tensor (c,).
        templates: str tensor (t,). Each template must contain `{}`.

    Returns:
        str tensor (c, t).
    """
    has_braces = tf.strings.regex_full_match(templates, r"(?s).*\{\}.*")
    checks = [
        tf.debugging.assert_positive(
            tf.size(templates), "`templates` must not be empty"
        ),
        tf.debugging.assert_equal(
            has_braces, True, "each item of `templates` must contain {}"
        ),
    ]
    with tf.control_dependencies(checks):
        prefixes = tf.strings.regex_replace(templates, r"(?s)\{\}.*$", "")
        suffixes = tf.strings.regex_replace(templates, r"(?s)^.*?\{\}", "")
    shape = tf.size(class_names), tf.size(templates)
    # `tf.strings.join` does not broadcast, so all three inputs get c × t items.
    prefixes = tf.tile(prefixes, shape[:1])
    suffixes = tf.tile(suffixes, shape[:1])
    names = tf.repeat(class_names, shape[1])
    return tf.reshape(tf.strings.join([prefixes, names, suffixes]), shape)
