#!/usr/bin/env bash
# Runs all checks with the tools of the active environment, and goes on after a
# failure so that one run shows them all.
# usage: tools/check.sh [--ci]    --ci runs the tests of that tier too
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

ci=0
for argument in "$@"; do
  case "$argument" in
    --ci) ci=1 ;;
    *)
      echo "tools/check.sh: unknown argument $argument; usage: tools/check.sh [--ci]" >&2
      exit 2
      ;;
  esac
done

failed=()
check() {
  local name=$1 start=$SECONDS code=0
  shift
  echo "=== $name"
  "$@" || code=$?
  [ "$code" = 0 ] || failed+=("$name")
  echo "--- $name: exit $code after $((SECONDS - start)) s"
}

check "ruff check" python -m ruff check .
check "ruff format" python -m ruff format --check .
check "import directions" python -m pytest -q tests/test_imports.py
check "tests" python -m pytest
if [ "$ci" = 1 ]; then
  check "ci tests" python -m pytest -m ci
fi

if [ "${#failed[@]}" != 0 ]; then
  printf -v list '%s, ' "${failed[@]}"
  echo "failed: ${list%, }" >&2
  exit 1
fi
echo "all checks passed"
