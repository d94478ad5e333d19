"""Records results of reference implementations for the tests.

`python tools/record_oracles.py [CASE ...]` writes the results to tests/golden. The
default tests read them and need no reference implementation. This script needs the
extra `oracles`. Without a CASE it records all cases, and it also writes the tiny
`transformers.AlignModel` that some of them use.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    """Records the cases on the command line, or all of them."""
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
