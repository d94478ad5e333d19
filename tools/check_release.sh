#!/usr/bin/env bash
# What must be green before a version is tagged; or, of the ci and release tiers, the
# tests of what has changed. Prints each stage's seconds, and goes on after a failure.
# usage: tools/check_release.sh [--changed [REV]]
#   REV: default the merge base with main, or on main the commit before.
# The extras of setup.cfg must be installed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

failed=()
stage() {
  local name=$1 start=$SECONDS code=0
  shift
  echo "=== $name"
  "$@" </dev/null || code=$?
  echo "--- $name: exit $code after $((SECONDS - start)) s"
  [ "$code" = 0 ] || failed+=("$name")
}

# A process a folder, one after the other: the largest models fill the memory. Exit code
# 5 says that a folder holds none of the tier.
one_by_one() {
  local marker=$1 path code all=0
  shift
  for path in "$@"; do
    code=0
    python -m pytest -n 0 -q -rs -m "$marker" -o timeout=3600 --durations=5 "$path" ||
      code=$?
    [ "$code" = 0 ] || [ "$code" = 5 ] || all=1
  done
  return "$all"
}

# The release tier counts the published ratings of CxC.
published_ratings() {
  [ -z "${ALIGN_KERAS_CXC_DIR:-}" ] || return 0
  git clone -q --depth 1 \
    https://github.com/google-research-datasets/Crisscrossed-Captions "$work/cxc" ||
    { echo "not there; its test is skipped"; return 0; }
  export ALIGN_KERAS_CXC_DIR=$work/cxc
}

# Not among what `.ci/run` installs: pyspark alone is 455 MB. The schemas' packages need
# others than the rest does, so only their files are taken.
engines() {
  python -m pip install -q -e ".[dask,ray,spark]" &&
    python -m pip install -q --no-deps --target "$work/schemas" dask-kubernetes \
      kubeflow-trainer-api || return 1
  command -v java >/dev/null || echo "without Java, the tests of Spark are skipped"
}

work=$(mktemp -d)
export ALIGN_KERAS_CLUSTER_SCHEMAS=$work/schemas
trap 'rm -rf "$work"' EXIT

case "${1:-}" in
  --changed)
    revision=${2:-$(git merge-base main HEAD 2>/dev/null)}
    if [ -z "$revision" ] || [ "$(git rev-parse "$revision")" = "$(git rev-parse HEAD)" ]
    then
      revision=HEAD~1
    fi
    tests=$(python tools/tests_of.py "$revision") || exit 1
    echo "changed since $revision: $(echo "$tests" | tr '\n' ' ')"
    case "$tests" in tests | *tests/utils* | *tests/runs*) stage "engines" engines ;; esac
    # shellcheck disable=SC2086
    [ -z "$tests" ] || stage "ci and release tests" one_by_one "ci or release" $tests
    ;;
  "")
    stage "lint" sh -c "python -m ruff check . && python -m ruff format --check ."
    stage "default tests" python -m pytest
    stage "CxC" published_ratings
    stage "ci tests" python -m pytest -m ci
    stage "engines" engines
    # Among them the distributions and the interpreters.
    stage "release tests" one_by_one release tests/*/
    stage "mutations" python tools/mutate.py
    ;;
  *)
    echo "usage: tools/check_release.sh [--changed [REV]]" >&2
    exit 2
    ;;
esac

echo "=== $SECONDS s in all"
if [ "${#failed[@]}" != 0 ]; then
  printf -v list '%s, ' "${failed[@]}"
  echo "failed: ${list%, }" >&2
  exit 1
fi
echo "all stages passed"
