"""Conversion of images and captions to inputs of the model, the same in all pipelines.

A pipeline first prepares each pair and then each batch of pairs.
"""

import tensorflow as tf

from align_keras.data.teacher_embeddings import TeacherEmbeddings
from align_keras.images.image_hash import image_hash
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor


class PairPreparation:
    """Preparation of pairs by a preprocessor.

    Args:
        preprocessor: `ALIGNPreprocessor`.
        training: augment the images, and draw one of several captions.
        with_image_ids: add `image_ids`, equal for equal images.
        teacher: embeddings that are added to each batch for `DistillationLoss`.
    """

    def __init__(
        self,
        preprocessor: ALIGNPreprocessor,
        *,
        training: bool,
        with_image_ids: bool = False,
        teacher: TeacherEmbeddings | None = None,
    ) -> None:
        self.preprocessor = preprocessor
        self.converter = preprocessor.image_converter
        self.training = training
        self.with_image_ids = with_image_ids
        self.teacher = teacher

    def hash_inputs(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the hash of an image as `image_ids` if the batch needs it."""
        if self.with_image_ids or self.teacher is not None:
            return {"image_ids": image_hash(image)}
        return {}

    def pair(self, pair: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple:
        """Returns the image, one caption and the other inputs of a pair.

        Args:
            pair: an image, which is a scalar string or pixels (height, width, 3), and
                its captions, a string tensor (m,) or one caption, a scalar.
            seed: int64 tensor (2,), used in training only.
        """
        image, captions = pair
        inputs = self.hash_inputs(image)
        if not self.training:
            caption = self.preprocessor.caption_at(captions, 0.0)
            return self.converter.convert(image), caption, inputs
        # `augment` draws three numbers from the same seed. The fourth number is
        # independent of them.
        position = tf.random.stateless_uniform((4,), seed)[3]
        caption = self.preprocessor.caption_at(captions, position)
        return self.converter.augment(image, seed), caption, inputs

    def augmented(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the images of a batch, augmented if `pair` has only resized them."""
        if self.training and self.converter.augments_batches:
            return self.converter.augment_batch(images, seed)
        return images

    def batch(
        self, images: tf.Tensor, captions: tf.Tensor, inputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns the inputs of the model for the pairs of a batch.

        Args:
            images: tensor (n, image_size, image_size, 3).
            captions: string tensor (n,).
            inputs: dict of tensors (n, …), the other inputs of the pairs.
        """
        if self.teacher is not None:
            inputs = self.teacher.add_to(inputs, captions, self.with_image_ids)
        return {"images": images, **self.preprocessor.tokenize(captions), **inputs}
