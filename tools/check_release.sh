#!/usr/bin/env bash
# Runs all checks that must pass before a version is tagged. With --changed, runs only the
# ci and release tests of the files that changed since REV. Prints the seconds of each
# stage, and continues after a failure.
# usage: tools/check_release.sh [--changed [REV]]
#   REV: A revision. The default is the merge base with main, or the previous commit if
#   the current commit is on main.
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

# Runs the tests with a marker in a separate process for each folder or file, because the
# largest models fill the memory. Pytest's exit code 5 means that a path has no such test.
run_separately() { # MARKER PATH...
  local marker=$1 path code result=0
  shift
  for path in "$@"; do
    code=0
    python -m pytest -n 0 -q -rs -m "$marker" -o timeout=3600 --durations=5 "$path" ||
      code=$?
    [ "$code" = 0 ] || [ "$code" = 5 ] || result=1
  done
  return "$result"
}

# Downloads the published ratings of CxC, which a release test counts.
download_ratings() {
  [ -z "${ALIGN_KERAS_CXC_DIR:-}" ] || return 0
  git clone -q --depth 1 \
    https://github.com/google-research-datasets/Crisscrossed-Captions "$work/cxc" ||
    { echo "The ratings could not be downloaded. Their test is skipped."; return 0; }
  export ALIGN_KERAS_CXC_DIR=$work/cxc
}

# Installs the cluster engines, which `.ci/run` omits because pyspark alone has 455 MB. The
# packages with the schemas of Kubernetes operators conflict with others. They go to a
# separate folder, from which the tests read only the schema files.
install_engines() {
  python -m pip install -q -e ".[dask,ray,spark]" &&
    python -m pip install -q --no-deps --target "$work/schemas" dask-kubernetes \
      kubeflow-trainer-api || return 1
  command -v java >/dev/null || echo "Java was not found. The tests of Spark are skipped."
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
    case "$tests" in tests | *tests/utils* | *tests/runs*) stage "engines" install_engines ;; esac
    # shellcheck disable=SC2086
    [ -z "$tests" ] || stage "ci and release tests" run_separately "ci or release" $tests
    ;;
  "")
    stage "lint" sh -c "python -m ruff check . && python -m ruff format --check ."
    stage "default tests" python -m pytest
    stage "CxC" download_ratings
    stage "ci tests" python -m pytest -m ci
    stage "engines" install_engines
    # These include the tests of the distributions and of all Python versions.
    stage "release tests" run_separately release tests/*/ tests/test_*.py
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
