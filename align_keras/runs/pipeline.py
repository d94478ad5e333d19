"""A run from its configuration: corpus, vocabulary, model, training, numbers."""

import dataclasses
import pathlib

import keras

from align_keras.data import RetrievalSet, check_batch_size, read_retrieval_set
from align_keras.evaluation import evaluate_retrieval
from align_keras.models import ALIGN
from align_keras.runs.about_run import save_data_notes
from align_keras.runs.assemble import (
    batch_maker,
    batch_namer,
    build_model,
    prepare_corpus,
    prepare_vocabulary,
)
from align_keras.runs.assemble_training import compile_model, training_schedule
from align_keras.runs.model_sizes import with_preset
from align_keras.training import train
from align_keras.training.averaged_weights import averaged_weights
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.metrics_log import MetricsLog
from align_keras.training.strategies import (
    is_chief,
    open_strategy,
    strategy_scope,
    wait_for_workers,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.quiet import start_compiler


@dataclasses.dataclass
class Run:
    """Everything that a run has open.

    Attributes:
        config: `ExperimentConfig`.
        directory: `pathlib.Path`, the run's folder.
        model: compiled `ALIGN`.
        train_builder: prepared TFDS builder, or None in evaluation.
        test_set: `RetrievalSet`.
        notes: dict, name of the corpus → metadata of its builder.
    """

    config: object
    directory: pathlib.Path
    model: ALIGN
    train_builder: object
    test_set: RetrievalSet
    notes: dict

    def train(self, evaluate=True):
        """Trains from the newest checkpoint to the last step.

        Outside of the strategy's scope, which `fit` enters by itself: the input's
        tables and random numbers belong to the host, not to the replicas.
        """
        train(
            self.model,
            batch_maker(self.config, self.train_builder, self.model),
            training_schedule(self.config.trainer),
            self.directory,
            batch_size=self.config.task.train_data.global_batch_size,
            evaluate=self.evaluate if evaluate else None,
            batch_ids=batch_namer(self.config, self.train_builder),
        )

    def save(self):
        """Writes the model into the folder; of several workers, one for all."""
        if is_chief(self.model.distribute_strategy):
            self.model.save_to_preset(self.directory)
        wait_for_workers(self.model.distribute_strategy)

    def evaluate(self):
        """Returns the retrieval metrics of the test pairs, a dict."""
        return dict(
            evaluate_retrieval(
                self.model.encode_images,
                self.model.encode_texts,
                self.test_set.images,
                self.test_set.captions,
                self.test_set.image_keys,
                ks=self.config.task.evaluation.ks,
            )
        )

    def evaluate_checkpoint(self, which="latest"):
        """Restores the latest or the best checkpoint and evaluates it.

        Raises:
            InputError: if there is none.
        """
        checkpoints = RunCheckpoints(self.model, str(self.directory / "checkpoints"))
        best = which == "best"
        step = checkpoints.restore_best() if best else checkpoints.restore_latest()
        if not step:
            remedy = "run with --mode train first"
            if best:
                remedy = "set trainer.best_checkpoint_eval_metric in training"
            raise InputError(
                f"{self.directory} holds no {which} checkpoint to evaluate; {remedy}."
            )
        say(f"evaluating step {step}")
        with averaged_weights(self.model):
            return self.evaluate()

    def log(self):
        """Returns the lines of `metrics.jsonl`."""
        return MetricsLog(self.directory / "metrics.jsonl").read()

    def last_metrics(self):
        """Returns the newest value of every metric, a dict."""
        newest = {}
        for line in self.log():
            newest.update(line)
        return newest


def open_run(config, directory):
    """Prepares corpora, vocabulary and model of a run.

    Args:
        config: `ExperimentConfig`.
        directory: `pathlib.Path`, the run's folder.

    Returns:
        `Run`.
    """
    runtime = config.runtime
    strategy = open_strategy(runtime)
    keras.config.set_dtype_policy(runtime.mixed_precision_dtype)
    start_compiler()
    data, validation = config.task.train_data, config.task.validation_data
    # A built corpus is only opened, so the same one may be asked for twice.
    image_size = with_preset(config.task.model).image_encoder.image_size
    train_builder, test_builder = (
        prepare_corpus(section, image_size) for section in (data, validation)
    )
    # By path, since training and test pairs may be two files of the user's.
    notes = {
        section.pairs or section.corpus: dict(builder.info.metadata or {})
        for section, builder in ((data, train_builder), (validation, test_builder))
    }
    for name, corpus_notes in notes.items():
        for line in corpus_notes.get("summary", []):
            say(f"{name}: {line}")
    save_data_notes(directory, notes)
    check_batch_size(data.global_batch_size, train_builder, data.tfds_split)
    vocabulary = prepare_vocabulary(config, train_builder, directory)
    # Here, since building a corpus draws random numbers too.
    keras.utils.set_random_seed(config.trainer.seed)
    with strategy_scope(strategy):
        model = build_model(config.task.model, vocabulary)
        compile_model(model, config)
    return Run(
        config=config,
        directory=pathlib.Path(directory),
        model=model,
        train_builder=train_builder,
        test_set=read_retrieval_set(test_builder, validation.tfds_split),
        notes=notes,
    )
