"""Reader of Dockerfiles."""

import pathlib
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """Instruction of a Dockerfile, such as `USER` with its arguments in one line."""

    name: str
    arguments: str


def read_instructions(path):
    """Returns the instructions of a Dockerfile without comments."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    lines = [line.partition(" ") for line in text.splitlines() if line]
    return [Instruction(name, arguments.strip()) for name, _, arguments in lines]
