"""SimLex-999: similarity of words (table 12)."""

import dataclasses
import pathlib

from align_keras.protocols.data_sets import NAMED, folder_of
from align_keras.protocols.protocol import Evaluation, Protocol, Request
from align_keras.utils.errors import InputError


def run(encoders, request: Request) -> Evaluation:
    """Correlates the cosines of the [CLS] vectors with rated similarity by rank."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    path = pathlib.Path(request.data)
    if request.data == "simlex999":
        path = folder_of(request) / NAMED["simlex999"][0][0]
    rows = [dataclasses.astuple(pair) for pair in benchmarks.read_simlex(path)]
    _, _, speech, _, quartile, hard = zip(*rows, strict=True)
    columns = {
        "part_of_speech": speech,
        "concreteness_quartile": quartile,
        "is_hard": hard,
    }
    request.check_columns(columns)
    if encoders.model.encode_words is None:
        raise InputError(
            "simlex needs the [CLS] vector before the projection, which an export "
            "hasn't got; give `model` the run folder or the Hugging Face folder."
        )
    cosines = evaluation.word_cosines(encoders.model.encode_words, rows)
    return Evaluation(
        dict(evaluation.simlex_metrics(cosines, rows)),
        [(evaluation.simlex_statistics(cosines, rows), columns)],
    )


SIMLEX = Protocol(
    "simlex",
    "similarity of words",
    "table 12",
    run,
    data="simlex999",
    data_help="simlex999, or the path of a file in its format",
    needs="words",
)
