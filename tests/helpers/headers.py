"""The files of experiments/ and their opening comments."""

import re

from align_keras.config import experiments

FILES = experiments()
HEADER = ("Command", "Hardware", "Duration", "Expected metric")
# Files that are laid over an experiment by --config_file.
ABLATIONS = {
    path.stem: path
    for path in sorted((FILES["align_b5_base"].parent / "ablations").glob("*.yaml"))
}


def header_of(text):
    """The opening comment's items, continuation lines joined."""
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


def checked_header(path):
    header = header_of(path.read_text(encoding="utf-8"))
    assert list(header) == list(HEADER)
    assert all(header.values())
    # A metric is the paper's, with its table, or was measured here by a command.
    assert re.search(
        r"Jia et al\. 2021, table \d+|[Mm]easured by|not measured",
        header["Expected metric"],
    )
    return header


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
