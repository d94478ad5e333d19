"""`align-keras push`: an upload, its options and wrong inputs."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from align_keras.cli.main import main
from tests.helpers.color_towers import GOLDEN

NAME = "user/model"


@pytest.fixture
def push(hub_stub, monkeypatch, capsys):
    """Function that runs the command as a user who is logged in."""
    token = hub_stub.add_user("user")
    monkeypatch.setenv("HF_TOKEN", token)

    def push(*words):
        code = main(["push", *map(str, words)])
        captured = capsys.readouterr()
        assert captured.out == "" and token not in captured.err
        return code, captured.err

    return push


def test_a_model_is_pushed_with_all_options(push, hub_stub, tmp_path):
    report = {"model": str(GOLDEN), "protocol": "retrieval", "data": "stamps"}
    report["metrics"] = {"t2i/recall_at_1": 0.25}
    (tmp_path / "report.json").write_text(json.dumps(report))
    code, err = push(
        GOLDEN,
        NAME,
        "--private",
        "--revision=v1",
        f"--evaluation={tmp_path / 'report.json'}",
        "--license=mit",
        "--commit-message=First version",
        "--language",
        "en",
        "de",
        "--datasets",
        "user/pairs",
    )
    repository = hub_stub.repositories[NAME]
    commit = repository.branches["v1"]
    assert code == 0
    assert err == f"pushed {hub_stub.url}/{NAME}/commit/{commit}\n"
    assert repository.private and repository.messages[commit] == "First version"
    assert repository.files("main") == {}
    card = ModelCard(repository.files("v1")["README.md"].decode())
    assert card.data.license == "mit" and card.data.language == ["en", "de"]
    assert card.data.datasets == ["user/pairs"]
    (result,) = card.data.eval_results
    assert result.metric_value == 0.25


def test_a_repository_of_another_user_is_refused(push):
    code, err = push(GOLDEN, "other/model")
    assert code == 1 and "token" in err and err.count("\n") == 1


def test_a_push_needs_a_login(push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, err = push(GOLDEN, NAME)
    assert code == 1 and "`hf auth login`" in err


@pytest.mark.ci
def test_another_machine_opens_the_pushed_model(hub_stub, tmp_path):
    """Both processes read the settings of the Hub from the environment."""
    token = hub_stub.add_user("user")
    pusher = hub_stub.environment(tmp_path / "pusher", token)
    arguments = [str(GOLDEN), NAME, "--private", "--license", "apache-2.0"]
    process = run("push", *arguments, env=pusher)
    assert process.returncode == 0, process.stderr
    assert process.stderr.startswith("pushed ")
    (tmp_path / "captions.txt").write_text("a dog\n")
    embed = ["embed", str(tmp_path / "captions.txt")]
    embed += ["--model", f"hf://{NAME}", "--to"]
    reader = hub_stub.environment(tmp_path / "reader", token)
    process = run(*embed, str(tmp_path / "out"), env=reader)
    assert process.returncode == 0, process.stderr


def run(*words, env):
    return subprocess.run(
        [sys.executable, "-m", "align_keras.cli.main", *words],
        env=env,
        capture_output=True,
        text=True,
    )
