"""A run, read in its order: configuration, data, model, training, numbers, search.

Mistakes in configuration and folder are told before TensorFlow is imported.
"""

import contextlib
import functools
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from align_keras.config import (
    ExperimentConfig,
    as_dict,
    changed_keys,
    is_same_table,
    load_config,
    validate,
)
from align_keras.runs.about_run import about_run, save_data_notes
from align_keras.runs.run_folder import (
    PARAMS_FILE,
    check_finished,
    check_inputs,
    check_searchable,
    lock_config,
    newest_step,
    train_command,
)
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder
from align_keras.utils.progress import say

MODES = ("train", "eval", "train_and_eval")
# Images and captions that the export embeds again in another process.
_CHECKED = 64
# Training images that are read once more, to find those that validation has too.
_MOST_COMPARED = 50_000


def train(
    config: ExperimentConfig | str | os.PathLike,
    model_dir: str | os.PathLike,
    *,
    params_override: str | Mapping | Sequence = (),
    mode: str = "train_and_eval",
    checkpoint: str = "latest",
) -> "Run":
    """Trains an experiment in a folder, or goes on with it, as `align-keras train`.

    A run that was ended goes on from its newest checkpoint and ends with the weights of
    one that never stopped.

    Args:
        config: `ExperimentConfig`, the name of an experiment in experiments/, or the
            path of a YAML file, such as the `params.yaml` of a run.
        model_dir: the run's folder, which is made.
        params_override: values laid over it: str such as `"trainer.seed=1"`, dict from
            dotted key to value, or a sequence of these, as `load_config`.
        mode: `"train"`; `"train_and_eval"`, which measures too; or `"eval"`, of a
            checkpoint, which writes nothing.
        checkpoint: `"latest"` or `"best"`, the one that `"eval"` restores.

    Returns:
        `Run`, whose `model` is trained and whose `metrics` are the newest, or of
        `"eval"` those of the checkpoint; `finish` writes what is searched and shown.

    Raises:
        InputError: for a mistake in the configuration, data that can't be read, a
            folder that holds another run or is written by another process, or a step
            whose loss or gradient isn't finite.

    References:
        Jia et al. 2021, section 5 (pre-training) and 5.1 (zero-shot retrieval).

    Example:

    A first look at icons takes minutes, and `run.model` then embeds images and texts:
    `run = align_keras.train("quickstart_icons", "saved_models/icons")`.
    Mistakes are told before anything is read or written:

    >>> train("quickstart_icons", "saved_models/icons", mode="evaluate")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: mode must be one of train, eval, ...
    """
    check_choice("mode", mode, MODES)
    check_choice("checkpoint", checkpoint, ("latest", "best"))
    run = Run(_loaded(config, params_override), model_dir)
    with _damaged_shards_named(run.config.task):
        if mode == "eval":
            run.build(read_only=True)
            run.metrics = run.evaluate_checkpoint(checkpoint)
            return run
        with lock_config(run.config, run.directory):
            run.build()
            run.fit(evaluate=mode == "train_and_eval")
            run.save()
    return run


def open_run(model_dir: str | os.PathLike) -> "Run":
    """Opens the folder of a finished run.

    Args:
        model_dir: the folder that `train` or `align-keras train` wrote.

    Returns:
        `Run`; its model and its validation pairs are loaded when they are asked for.

    Raises:
        InputError: if the folder holds no trained model; names the command that
            trains it.

    Example:
    >>> open_run("no_such_run")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: no_such_run must be a run's folder, but has...
    """
    directory = pathlib.Path(model_dir)
    check_finished(directory)
    if not (directory / PARAMS_FILE).exists():
        raise InputError(
            f"{directory} must be the folder of a run of this package, but has no "
            f"{PARAMS_FILE}; open a bare model by ALIGN.from_preset."
        )
    return Run(load_config(config_files=[directory / PARAMS_FILE]), directory)


def _loaded(config, params_override):
    if not isinstance(config, ExperimentConfig):
        return load_config(config, params_override=params_override)
    if not params_override:
        return validate(config)
    if isinstance(params_override, str | Mapping):
        params_override = [params_override]
    changed = changed_keys(load_config(), config)
    given = {key: value for key, (_, value) in changed.items()}
    names = [f"task.validation_data.{name}" for name in ("corpus", "pairs")]
    if any(name in given for name in names):
        # Stated also where it is the default, which a table alone would replace.
        split = config.task.validation_data.tfds_split
        given["task.validation_data.tfds_split"] = split
    return load_config(params_override=[given, *params_override])


@contextlib.contextmanager
def _damaged_shards_named(task):
    """Names damaged shards, and says what the reader of a source said to TensorFlow."""
    try:
        yield
    except Exception as error:
        if found := re.search(r"InputError: (.+)", str(error)):
            raise InputError(found[1]) from error
        if "DataLossError" in (type(error).__name__, type(error.__cause__).__name__):
            from align_keras.datasets.build import refuse_damaged

            for corpus in (task.train_data.corpus, task.validation_data.corpus):
                if corpus and os.path.isdir(corpus):
                    refuse_damaged(corpus)
        raise


def _name_of(data):
    """Names what a section of the configuration reads."""
    if data.source is not None:
        return ", ".join(source.path for source in data.source)
    return str(data.pairs or data.corpus)


class Run:
    """A run's folder and what it is made of.

    Data and model are opened when they are first asked for: the model is the finished
    run's, unless `build` makes the one to train.

    Attributes:
        config: `ExperimentConfig`.
        directory: `pathlib.Path` of the run's folder.
        train_builder: prepared TFDS builder or `Mixture` of the training pairs.
        test_builder: the same of the validation pairs.
        test_set: `RetrievalSet`, the validation pairs in memory.
        notes: dict, name of a corpus → metadata of its builder.
        model: `ALIGN`.
        metrics: dict, the newest value of each metric.
    """

    def __init__(self, config: ExperimentConfig, directory: str | os.PathLike):
        self.config = config
        self.directory = pathlib.Path(directory)

    # Data

    @functools.cached_property
    def train_builder(self) -> Any:
        return self._open_corpus(self.config.task.train_data)

    @functools.cached_property
    def test_builder(self) -> Any:
        return self._open_corpus(self.config.task.validation_data)

    def _open_corpus(self, data):
        # A corpus that is built is only opened, so the same one may be asked for twice.
        from align_keras.models.preset_table import with_preset
        from align_keras.runs.assemble import prepare_corpus

        model = with_preset(self.config.task.model)
        return prepare_corpus(data, model.image_encoder.image_size)

    @functools.cached_property
    def test_set(self) -> Any:
        from align_keras.data import read_retrieval_set

        split = self.config.task.validation_data.tfds_split
        return read_retrieval_set(self.test_builder, split)

    @functools.cached_property
    def notes(self) -> dict[str, dict]:
        # By path, since training and test pairs may be two files of the user's.
        task = self.config.task
        return {
            _name_of(task.train_data): dict(self.train_builder.info.metadata or {}),
            _name_of(task.validation_data): dict(self.test_builder.info.metadata or {}),
        }

    def save_notes(self) -> None:
        """Keeps in the folder, and says, what the corpora hold and have dropped."""
        for name, notes in self.notes.items():
            for line in notes.get("summary", []):
                say(f"{name}: {line}")
        save_data_notes(self.directory, self.notes)

    # Model

    @functools.cached_property
    def model(self) -> Any:
        from align_keras.models import ALIGN

        return ALIGN.from_preset(self.directory)

    def build(self, read_only: bool = False) -> None:
        """Makes the compiled model to train, and the data and vocabulary before it.

        Args:
            read_only: bool, True to record no fingerprints of data and vocabulary.
        """
        if "tensorflow" not in sys.modules:
            say("starting TensorFlow")
        import keras

        from align_keras.data import check_batch_size
        from align_keras.models.warm_start import check_installed
        from align_keras.runs import assemble
        from align_keras.training.strategies import make_strategy, strategy_scope
        from align_keras.utils.quiet import start_compiler

        config, data = self.config, self.config.task.train_data
        runtime, towers = config.runtime, config.task.model
        # A corpus may take an hour to build.
        check_installed(towers.image_encoder.weights, towers.text_encoder.weights)
        # First, since it may divide the processor into devices.
        strategy = make_strategy(
            runtime.distribution_strategy, runtime.num_replicas, runtime.tpu
        )
        keras.config.set_dtype_policy(runtime.mixed_precision_dtype)
        start_compiler()
        self.save_notes()
        self._check_pairs(read_only)
        check_batch_size(data.global_batch_size, self.train_builder, data.tfds_split)
        vocabulary = assemble.prepare_vocabulary(
            config, self.train_builder, self.directory
        )
        self._check_vocabulary(vocabulary, read_only)
        # Here, since building a corpus draws random numbers too.
        keras.utils.set_random_seed(config.trainer.seed)
        with strategy_scope(strategy):
            self.model = assemble.build_model(config.task.model, vocabulary)
            assemble.compile_model(self.model, config)
        # Read now, so that a wrong split is reported before training.
        self._report_validation_pairs(self.test_set)
        self._report_shared_images()

    def _check_pairs(self, read_only: bool) -> None:
        """Raises unless the training pairs are those that the run began with."""
        from align_keras.data.stored_pairs import split_size
        from align_keras.datasets.fingerprints import pairs_fingerprint

        pairs = self.train_builder, self.config.task.train_data.tfds_split
        inputs: dict[str, str | int] = {"train_images": split_size(*pairs)}
        inputs["train_pairs"] = pairs_fingerprint(*pairs)
        check_inputs(self.directory, inputs, read_only)

    def _check_vocabulary(self, vocabulary: Sequence[str], read_only: bool) -> None:
        """Raises unless the vocabulary is the one that the run began with."""
        from align_keras.models.preset_io import check_vocabulary_file
        from align_keras.text import vocabulary_fingerprint

        inputs = {"vocabulary": vocabulary_fingerprint(vocabulary)}
        check_inputs(self.directory, inputs, read_only)
        has_model = (self.directory / "config.json").exists()
        if has_model and newest_step(self.directory) is not None:
            check_vocabulary_file(self.directory)

    def _report_validation_pairs(self, pairs: Any) -> None:
        """Prints the split that recall is measured on and its number of pairs."""
        data = self.config.task.validation_data
        captions = sum(len(of_image) for of_image in pairs.captions)
        line = (
            f"recall is measured on {len(pairs):,} images with {captions:,} captions "
            f"of {_name_of(data)}[{data.tfds_split}]"
        )
        train_pairs = self.config.task.train_data.pairs
        if data.pairs is not None and data.tfds_split != "all":
            if not is_same_table(data.pairs, train_pairs):
                line += "; task.validation_data.tfds_split=all measures the whole table"
        say(line)

    def _report_shared_images(self) -> None:
        """Prints how many validation images are training images too."""
        from align_keras.data.stored_pairs import read_image_keys, split_size

        train, validation = (
            self.config.task.train_data,
            self.config.task.validation_data,
        )
        # The splits of one corpus share no image.
        names = (train.tfds_split, validation.tfds_split)
        is_divided = names == ("train", "test") and _name_of(train) == _name_of(
            validation
        )
        pairs = self.train_builder, train.tfds_split
        if (
            is_divided
            or newest_step(self.directory) is not None
            or split_size(*pairs) > _MOST_COMPARED
        ):
            return
        train_keys = read_image_keys(*pairs)
        shared = sum(key in train_keys for key in self.test_set.image_keys)
        if shared:
            say(
                f"{shared:,} of the {len(self.test_set):,} validation images are "
                "training images too, on which recall is too high; remove them from "
                "one of the two"
            )

    # Training

    def fit(self, evaluate: bool = True) -> None:
        """Trains from the newest checkpoint to the last step; may `evaluate` too."""
        from align_keras.data import batch_ids, training_batches
        from align_keras.runs.assemble import order_arguments
        from align_keras.training import train

        data = self.config.task.train_data
        pairs = self.train_builder, data.tfds_split
        order = order_arguments(self.config)
        make_batches = functools.partial(
            training_batches,
            *pairs,
            self.model.preprocessor.with_options(
                crop="random" if data.random_crop else "center",
                flip=data.random_flip,
                zoom=data.random_zoom,
                shift=data.random_shift,
                recolor=data.random_recolor,
            ),
            data_service=data.data_service,
            **order,
        )
        # The workers of a data service decide on the order.
        named = data.data_service is None
        ids = functools.partial(batch_ids, *pairs, **order) if named else None
        # Outside of the strategy's scope: the input's tables and random numbers belong
        # to the host, not to the replicas.
        train(
            self.model,
            make_batches,
            self.config.trainer,
            self.directory,
            batch_size=data.global_batch_size,
            evaluate=self.evaluate if evaluate else None,
            batch_ids=ids,
        )

    def save(self) -> None:
        """Writes the model into the folder; of several workers, one for all."""
        from align_keras.training.strategies import is_chief, wait_for_workers

        if is_chief(self.model.distribute_strategy):
            self.model.save_to_preset(self.directory)
        wait_for_workers(self.model.distribute_strategy)

    # Numbers

    def evaluate(self) -> dict[str, float]:
        """Retrieval of the validation pairs (Jia et al. 2021, section 5.1)."""
        from align_keras import evaluation

        data = self.test_set
        captions, image_of = evaluation.flatten_captions(data.captions)
        return dict(
            evaluation.retrieval_metrics(
                self.model.encode_images(data.images),
                self.model.encode_texts(captions),
                positives=evaluation.shared_positives(
                    data.image_keys, captions, image_of
                ),
                ks=self.config.task.evaluation.ks,
            )
        )

    def evaluate_checkpoint(self, which: str = "latest") -> dict[str, float]:
        """Evaluates the latest or the best checkpoint, or raises if there is none."""
        from align_keras.training.checkpoints import RunCheckpoints
        from align_keras.training.trainer import averaged_weights

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

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        from align_keras.training.metrics_log import MetricsLog

        return MetricsLog(self.directory / "metrics.jsonl").newest()

    # What a finished run leaves

    def finish(self, command: str | None = None) -> None:
        """Writes the export, the search index and the report of a trained run.

        Args:
            command: what was run, for the report; None for what goes on with the run.

        Raises:
            InputError: if the run isn't trained, or another process writes it.
        """
        check_finished(self.directory)
        with (
            _damaged_shards_named(self.config.task),
            lock_config(self.config, self.directory),
        ):
            save_data_notes(self.directory, self.notes)
            self._finish(command or train_command(self.directory))

    def _finish(self, command):
        from align_keras.evaluation import flatten_captions
        from align_keras.export.saved_model import write_saved_models
        from align_keras.export.serving_files import write_serving_files
        from align_keras.reports.examples import contact_sheet
        from align_keras.reports.report import write_report
        from align_keras.search import SearchIndex
        from align_keras.search.standalone import check_standalone
        from align_keras.training.metrics_log import MetricsLog

        directory, model, pairs = self.directory, self.model, self.test_set
        say("exporting SavedModels for images, for texts and for both")
        with atomic_folder(directory / "export") as folder:
            write_saved_models(model, folder, about=about_run(directory, command))
            write_serving_files(folder)
        image_embeddings = model.encode_images(pairs.images)
        captions, _ = flatten_captions(pairs.captions)
        text_embeddings = model.encode_texts(captions)
        SearchIndex.build(
            image_embeddings, pairs.ids, pairs.captions, thumbnails=pairs.images
        ).save(directory / "index")
        say("embedding and searching with the export in a process without align_keras")
        proof = check_standalone(
            directory / "export",
            images=pairs.images[:_CHECKED],
            image_embeddings=image_embeddings[:_CHECKED],
            captions=captions[:_CHECKED],
            text_embeddings=text_embeddings[:_CHECKED],
            index=directory / "index",
            queries=captions[:1],
        )
        say(f"  embeddings differ by at most {proof['max_abs_difference']:.1e}")
        text_queries, image_queries = contact_sheet(
            image_embeddings,
            text_embeddings,
            pairs.images,
            pairs.captions,
            pairs.image_keys,
        )
        log = MetricsLog(directory / "metrics.jsonl")
        write_report(
            directory / "report.html",
            title=f"ALIGN trained on {next(iter(self.notes))}",
            parameters=as_dict(self.config),
            metrics=log.newest(),
            history=log.read(),
            text_queries=text_queries,
            image_queries=image_queries,
            data_notes=self.notes,
            next_steps=self.next_steps(),
            command=command,
        )

    def search(self, *text: str, **options: Any) -> list[dict]:
        """Finds validation images, by the options of `search.run_search.search`."""
        from align_keras.search.run_search import search

        check_searchable(self.directory)
        return search(self.directory, text, **options)

    def next_steps(self) -> list[str]:
        """Commands that make sense after the run."""
        folder = shlex.quote(str(self.directory))
        caption = shlex.quote(self.test_set.captions[0][0])
        steps = [
            f"align-keras search --model_dir {folder} {caption}",
            f"tensorboard --logdir {folder}/tensorboard",
            f"align-keras train --config_file {folder}/{PARAMS_FILE} "
            f"--params_override trainer.seed=1 --model_dir {folder}_seed_1",
        ]
        if self.config.task.train_data.pairs is None:
            steps.append("align-keras quickstart --pairs YOUR_PAIRS.csv")
        return steps
