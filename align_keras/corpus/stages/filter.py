"""Filter: four passes over the tables, after Jia et al. 2021, section 3."""

from align_keras.corpus.filter_tables import filter_table
from align_keras.corpus.text_counts import choose_frequent, count_texts, merge_counts
from align_keras.corpus.thresholds import Thresholds


def count_task(task):
    """Counts the texts of one table.

    Args:
        task: dict with `table` (str) and `folder` (str, of the counts).

    Returns:
        int, the number of texts.
    """
    return count_texts(task["table"], task["folder"])


def merge_task(task):
    """Adds up one range of hashes.

    Args:
        task: dict with `partition` and `partitions` (int), `folder` and `thresholds`
            (dict).
    """
    merge_counts(
        task["partition"], task["partitions"], task["folder"], _thresholds(task)
    )


def choose_task(task):
    """Chooses the frequent n-grams.

    Args:
        task: as `merge_task`, without `partition`.

    Returns:
        dict, as `choose_frequent`.
    """
    return choose_frequent(task["partitions"], task["folder"], _thresholds(task))


def filter_task(task):
    """Writes the pairs of one table that stay.

    Args:
        task: dict with `table` and `kept` (str, the table to read and the one to
            write), `folder` and `thresholds`.

    Returns:
        dict, as `filter_table`.
    """
    return filter_table(task["table"], task["kept"], task["folder"], _thresholds(task))


def _thresholds(task):
    return Thresholds(**task["thresholds"])
