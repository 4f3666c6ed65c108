#!/usr/bin/python3
"""Runs check_fixture over every fixture, for every target when a binary is given.

    check_all.py FIXTURES_DIR [BINARY]

Prints one line a check and exits 1 if any failed.
"""

import pathlib
import sys

from check_fixture import ROPE_READER, check
from decode import OracleError


def main(arguments):
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    fixtures = sorted(path.resolve() for path in pathlib.Path(arguments[0]).iterdir() if (path / "checkpoint").is_dir())
    passed = failed = 0
    for fixture in fixtures:
        for target in ROPE_READER if len(arguments) == 2 else [None]:
            try:
                print(f"ok   {target or 'source':16} {check(fixture, *arguments[1:], *([target] if target else []))}")
                passed += 1
            except (OracleError, KeyError, ValueError, OSError) as error:
                print(f"FAIL {target or 'source':16} {fixture.name}: {type(error).__name__}: {error}")
                failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
