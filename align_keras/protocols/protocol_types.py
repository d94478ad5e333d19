"""What a protocol takes from the command line, and what it gives back."""

import dataclasses

from align_keras.utils.errors import InputError


@dataclasses.dataclass
class Evaluation:
    """What a protocol finds.

    Attributes:
        metrics: dict, name → float.
        items: list of (statistics, columns): metrics as `sliced_metrics` takes
            them, and dicts of name → one value an item, by which they are sliced.
        retrieval: dict, the arguments of `retrieval_examples`, or None.
        classification: dict of labels, predictions and names to show, or None.
    """

    metrics: dict
    items: list = dataclasses.field(default_factory=list)
    retrieval: dict | None = None
    classification: dict | None = None


def pictures_left_out(lost):
    """Returns the metric of pictures that are missing or unreadable, if there are."""
    return {"pictures_left_out": float(lost)} if lost else {}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of the protocol.

    Attributes:
        templates: str, as `read_templates` takes it.
        text_weight: float, of composed queries' words, the picture's being 1.
        slice_by: str or None, the column by which metrics will be sliced.
        model: str, the model's path, for processes that open it again.
        workers: int ≥ 1, processes that train classifiers.
        results: str or None, folder of what was trained.
        config_files: sequence of paths, laid over a protocol's recipe.
        params_override: sequence of str, laid over these.
    """

    templates: str = "default"
    text_weight: float = 2.0
    slice_by: str | None = None
    model: str = ""
    workers: int = 1
    results: str | None = None
    config_files: tuple = ()
    params_override: tuple = ()

    def check_columns(self, columns):
        """Raises unless the data has the column to slice by: before it is embedded.

        Args:
            columns: iterable of str, those of the data.
        """
        if self.slice_by is not None and self.slice_by not in columns:
            known = ", ".join(sorted(columns)) or "none"
            raise InputError(
                f"--slice_by must be one of {known}, the columns of this data, "
                f"received {self.slice_by!r}."
            )
