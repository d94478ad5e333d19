"""Records what the tests' oracles answer: `python tools/record_oracles.py [CASE ...]`.

Takes the package's extra `oracles`. It writes tests/golden, which the default tests
compare with; they need none of these packages. With no case named, it also makes the
tiny `transformers.AlignModel` anew that one of the cases is about.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    """Records the cases that are named, or everything."""
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
