"""`align-keras evaluate --html`: the page of results."""

from align_keras.protocols.evaluation_splits import unusual_splits
from align_keras.reports.result_page import write_result_page


def write_page(arguments, request, found, slices):
    """Writes the page that `--html` names.

    Args:
        arguments: the command line's.
        request: `DataRequest`.
        found: `Evaluation`.
        slices: dict, as `sliced` returns; empty where none are asked for.
    """
    facts = {"model": arguments.model, "data": request.name}
    for name in ("split", "train_split"):
        if getattr(request, name) is not None:
            facts[name] = getattr(request, name)
    for name in ("templates", "classes", "engine"):
        if getattr(arguments, name) is not None:
            facts[name] = getattr(arguments, name)
    write_result_page(
        arguments.html,
        protocol=arguments.protocol,
        data=request.name,
        facts=facts,
        metrics=found.metrics,
        splits=unusual_splits(request),
        slices=slices,
        retrieval=found.retrieval,
        classification=found.classification,
    )
