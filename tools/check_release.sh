#!/usr/bin/env bash
# Runs the checks that must pass before a version is tagged and that `.ci/run` omits: the
# speed, the release tests and the mutations. With --changed, runs only the ci and release
# tests of the files that changed since REV. Continues after a failure, and prints a table
# of the stages at the end. The whole run takes hours. If it is interrupted, the next run of
# the same commit skips the stages that have passed.
# usage: tools/check_release.sh [--changed [REV]]
#   REV: A revision. The default is the merge base with main, or the previous commit if
#   the current commit is on main.
# The extras of setup.cfg must be installed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

failed=() summary=()

# Runs a command as a stage, and adds its result to the summary.
stage() { # NAME COMMAND...
  local name=$1 start=$SECONDS code=0 line
  shift
  echo "=== $name"
  # A pipe would run functions in a subshell, which can't export variables.
  "$@" </dev/null > >(tee "$work/log") 2>&1 || code=$?
  wait $!
  printf -v line '%-36s exit %d  %6d s  %s' "$name" "$code" "$((SECONDS - start))" \
    "$(count_tests "$work/log")"
  echo "--- $line"
  summary+=("$line")
  [ "$code" = 0 ] || failed+=("$name")
  return "$code"
}

# Runs a stage that has not passed on this commit yet.
stage_once() { # NAME COMMAND...
  local file=$passed/${1//[^a-zA-Z0-9]/_}
  if [ -e "$file" ]; then
    summary+=("$(cat "$file"), earlier")
  elif stage "$@"; then
    echo "${summary[-1]}" >"$file"
  fi
}

# Adds up the numbers in the last lines of pytest, such as "180 passed, 4 skipped in 60s".
count_tests() { # LOG
  awk '/ in [0-9.]+s/ {
    for (field = 2; field <= NF; field++) {
      word = $field
      sub(/,$/, "", word)
      if (word ~ /^(passed|failed|skipped|errors?)$/) counts[word] += $(field - 1)
    }
  }
  END {
    for (word in counts) {
      printf "%s%d %s", separator, counts[word], word
      separator = ", "
    }
  }' "$1"
}

# The mutations take about half an hour and rarely use more than a core. They run next to
# the other stages, and their own stage waits for them.
start_mutations() {
  python tools/mutate.py --results "$passed/mutations.jsonl" >"$work/mutations" 2>&1 \
    </dev/null &
  mutations=$!
}

finish_mutations() {
  local code=0
  wait "$mutations" || code=$?
  cat "$work/mutations"
  return "$code"
}

# Runs the tests with a marker. Each folder has a process of its own, because the
# largest models fill the memory. Pytest's exit code 5 means that a path has no such test.
run_tests() { # MARKER PATH
  local code=0
  python -m pytest -n 0 -q -rs -m "$1" -o timeout=3600 --durations=5 "$2" || code=$?
  [ "$code" = 0 ] || [ "$code" = 5 ]
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

# Compares the speed with that of the commit in the README's table.
compare_speed() {
  local revision
  revision=$(sed -n 's/^<!-- speeds of \(.*\) -->$/\1/p' README.md)
  git clone -q --shared . "$work/before" &&
    git -C "$work/before" checkout -q "$revision" &&
    python tools/benchmarks/compare.py "$work/before"
}

work=$(mktemp -d)
export ALIGN_KERAS_CLUSTER_SCHEMAS=$work/schemas
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
passed=build/release/$(git rev-parse HEAD)
# A changed checkout is not the commit, so its results are not kept.
[ -z "$(git status --porcelain)" ] || passed=$work/passed
mkdir -p "$passed"

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
    for path in $tests; do
      stage "ci and release $path" run_tests "ci or release" "$path"
    done
    ;;
  "")
    stage "CxC" download_ratings
    stage "engines" install_engines
    # Before the mutations, which would disturb the measurement.
    stage_once "speed" compare_speed
    start_mutations
    # These include the tests of the distributions and of all Python versions.
    for path in tests/*/; do
      stage_once "release ${path%/}" run_tests release "$path"
    done
    stage "mutations" finish_mutations
    ;;
  *)
    echo "usage: tools/check_release.sh [--changed [REV]]" >&2
    exit 2
    ;;
esac

echo "=== summary of version $(python -c "import align_keras; print(align_keras.__version__)")"
printf '%s\n' "${summary[@]}"
echo "=== $SECONDS s in all"
if [ "${#failed[@]}" != 0 ]; then
  printf -v list '%s, ' "${failed[@]}"
  echo "failed: ${list%, }" >&2
  exit 1
fi
echo "all stages passed"
