"""The files of experiments/ and the comments at their top."""

import re

from align_keras.config import experiments

FILES = experiments()
HEADER = ("Command", "Hardware", "Duration", "Expected metric")
# Files for --config_file. Their settings replace those of an experiment.
ABLATIONS = {
    path.stem: path
    for path in sorted((FILES["align_b5_base"].parent / "ablations").glob("*.yaml"))
}


def header_of(text):
    """Returns the items of the comment at the top of a file.

    Continuation lines are joined.

    Returns:
        Dict of name, such as `"Hardware"`, to text.
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# yaml-language-server:"):
            continue
        lines.append(line.removeprefix("#").strip())
    items = re.split(rf"(?:^|\n)({'|'.join(HEADER)}):", "\n".join(lines))
    return {
        name: " ".join(value.split())
        for name, value in zip(items[1::2], items[2::2], strict=True)
    }


def read_checked_header(path):
    """Returns the items at the top of a file, which must have all items of `HEADER`."""
    header = header_of(path.read_text(encoding="utf-8"))
    assert list(header) == list(HEADER)
    assert all(header.values())
    # The metric must cite a table of the paper or the command that measured it.
    assert re.search(
        r"Jia et al\. 2021, table \d+|[Mm]easured by|not measured",
        header["Expected metric"],
    )
    return header


def flatten(tree, prefix=""):
    """Yields (dotted name, value) of each leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
