"""Training batches of a run."""

import dataclasses
from typing import Any

import tensorflow as tf

from align_keras.config import ExperimentConfig
from align_keras.data import batch_ids, training_batches
from align_keras.models import ALIGN, TeacherEmbeddings


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """Training batches of a run, which can start at any step.

    Attributes:
        config: `ExperimentConfig`.
        builder: TFDS builder or `Mixture` of the training pairs.
        model: `ALIGN`, whose preprocessor is used.
        teacher: `TeacherEmbeddings` of the training pairs, or None.
    """

    config: ExperimentConfig
    builder: Any
    model: ALIGN
    teacher: TeacherEmbeddings | None = None

    @property
    def have_known_order(self) -> bool:
        """False if a data service is used, because its workers determine the order."""
        return self.config.task.train_data.data_service is None

    def start_at(self, start_step: int, **pipeline: Any) -> tf.data.Dataset:
        """Returns an endless data set of batches that begins at a step.

        Args:
            start_step: number of the first batch.
            **pipeline: `input_pipeline_id` and `num_input_pipelines` of a worker.
        """
        train = self.config.task.train_data
        random_crop = "paper" if train.resize_before_crop else "random"
        return training_batches(
            self.builder,
            train.tfds_split,
            self.model.require_preprocessor().with_options(
                crop=random_crop if train.random_crop else "center",
                flip=train.random_flip,
                zoom=train.random_zoom,
                shift=train.random_shift,
                recolor=train.random_recolor,
            ),
            data_service=train.data_service,
            start_step=start_step,
            teacher=self.teacher,
            with_image_ids=self.config.task.loss.get().share_equal_images,
            caption_sources=train.caption_sources,
            **order_arguments(self.config),
            **pipeline,
        )

    def ids(self, step: int, **pipeline: Any) -> list[str]:
        """Returns the ids of the pairs in the batch of a step."""
        return batch_ids(
            self.builder,
            self.config.task.train_data.tfds_split,
            step=step,
            **order_arguments(self.config),
            **pipeline,
        )


def order_arguments(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the arguments that determine the pairs of each batch."""
    train = config.task.train_data
    return {
        "batch_size": train.global_batch_size,
        "seed": config.trainer.seed if train.seed is None else train.seed,
        "shuffle_buffer_size": train.shuffle_buffer_size,
        "cache": train.cache,
        "pair_weighted": train.pair_weighted,
    }
