"""Records the answers of the oracles of tests.

`python tools/record_oracles.py [CASE ...]` writes them to tests/golden, so that the
default tests need no oracle. It needs the extra `oracles`. Without a CASE it records
all cases and writes the tiny `transformers.AlignModel` of one of them again.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    """Records the cases of the command line, or all."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.align_folders import record_tiny_align
    from tests.helpers.recorded_oracles import CASES, record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE")
    names = parser.parse_args().cases
    if not names:
        record_tiny_align()
    for name in names or CASES:
        record(name)


if __name__ == "__main__":
    main()
