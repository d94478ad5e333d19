"""Tests of the Kubernetes manifests of the guide against published schemas."""

import json
import os
import pathlib
import sys

import pytest
import yaml

from align_keras.cli.main import parse_arguments
from align_keras.utils.tasks import is_cluster

FOLDER = pathlib.Path(__file__).parents[2] / "docs/pages/guides/kubernetes"
# Environment variable with the folder of the operators' schemas. tools/check_release.sh
# sets it.
SCHEMAS = "ALIGN_KERAS_CLUSTER_SCHEMAS"


def manifest(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def pods():
    """Returns the pod specifications of the manifests by name."""
    cluster = manifest("cluster.yaml")["spec"]
    [workers] = manifest("train.yaml")["spec"]["replicatedJobs"]
    return {
        "train": workers["template"]["spec"]["template"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
        "corpus": manifest("corpus.yaml")["spec"]["template"]["spec"],
    }


def test_the_commands_of_the_manifests_are_valid():
    [corpus] = pods()["corpus"]["containers"]
    arguments = parse_arguments([*corpus["command"][1:], *corpus["args"]])
    cluster = manifest("cluster.yaml")
    service = cluster["spec"]["scheduler"]["service"]
    [port] = service["ports"]
    address = f"{cluster['metadata']['name']}-scheduler:{port['port']}"
    assert arguments.engine == f"dask:{address}"
    assert is_cluster(arguments.engine)
    [train] = pods()["train"]["containers"]
    script, _, command = train["args"][0].partition("exec align-keras ")
    parse_arguments(command.replace("\\\n", " ").split())
    jobs = manifest("train.yaml")
    [job] = jobs["spec"]["replicatedJobs"]
    for index in range(job["template"]["spec"]["completions"]):
        text = script.partition('"')[2].rstrip().rstrip('"').replace('\\"', '"')
        config = json.loads(text.replace("$JOB_COMPLETION_INDEX", str(index)))
        name = f"{jobs['metadata']['name']}-{job['name']}-0-{index}"
        address = f"{name}.{jobs['spec']['network']['subdomain']}:2222"
        assert config["cluster"]["worker"][config["task"]["index"]] == address


@pytest.mark.ci
@pytest.mark.parametrize("name", ["train", "scheduler", "worker", "corpus"])
def test_pods_and_jobs_match_the_schemas_of_kubernetes(name):
    validator = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    validator.validate({**pod, "spec": pods()[name]}, "1.31", strict=True)
    if name == "corpus":
        validator.validate(manifest("corpus.yaml"), "1.31", strict=True)


def schemas():
    folder = os.environ.get(SCHEMAS)
    if folder is None:
        pytest.skip(f"{SCHEMAS} isn't set. tools/check_release.sh sets it.")
    return pathlib.Path(folder)


def refuse_unknown_keys(schema):
    """Returns a copy of a schema that refuses unknown keys."""
    if isinstance(schema, list):
        return [refuse_unknown_keys(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: refuse_unknown_keys(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.release
def test_the_cluster_matches_the_schema_of_dasks_operator():
    jsonschema = pytest.importorskip("jsonschema")
    [path] = schemas().rglob("crds/daskcluster.yaml")
    [version] = yaml.safe_load(path.read_text())["spec"]["versions"]
    # The other keys are those of every Kubernetes object.
    schema = refuse_unknown_keys(
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    )
    cluster = manifest("cluster.yaml")
    assert cluster["apiVersion"] == f"kubernetes.dask.org/{version['name']}"
    checker = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in checker.iter_errors(cluster["spec"])] == []
    cluster["spec"]["worker"]["replica"] = 3
    [error] = checker.iter_errors(cluster["spec"])
    assert "'replica' was unexpected" in error.message


@pytest.mark.release
def test_the_training_matches_the_schema_of_a_jobset(monkeypatch):
    monkeypatch.syspath_prepend(schemas())
    pytest.importorskip("kubeflow_trainer_api")
    from kubeflow_trainer_api.models import jobset_v1alpha2_job_set

    jobset = jobset_v1alpha2_job_set.JobsetV1alpha2JobSet
    train = manifest("train.yaml")
    # The conversion drops unknown keys.
    assert jobset.from_dict(train).to_dict() == train
    train["spec"]["replicatedJobs"][0]["replica"] = 2
    assert jobset.from_dict(train).to_dict() != train
    for name in [name for name in sys.modules if name.startswith("kubeflow")]:
        del sys.modules[name]
