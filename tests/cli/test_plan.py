"""`align-keras plan`: its table, its JSON and its wrong inputs."""

import json
import subprocess
import sys

import pytest

from align_keras.cli.main import main
from align_keras.cli.plan import optimizer_slots, run_sizes
from align_keras.config import load_config

SHORT = (
    "task.model.text_encoder.vocabulary_size=1000,"
    "task.train_data.global_batch_size=32,"
    "trainer.train_steps=1000,"
    "trainer.optimizer_config.warmup.linear.warmup_steps=10"
)
NANO = (
    "task.model.image_encoder.variant=efficientnet_nano,"
    "task.model.image_encoder.image_size=64,"
    "task.model.text_encoder.variant=bert_tiny,"
    f"task.model.projection_dim=64,{SHORT}"
)


def plan(capsys, *arguments, base=NANO):
    arguments = ["--devices=2", "--device-kind=tpu_v3", *arguments]
    code = main(["plan", f"--params_override={base}", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def planned(capsys, *arguments, base=NANO):
    return json.loads(plan(capsys, "--json", *arguments, base=base))


def refused(capsys, *arguments):
    code = main(["plan", *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    (line,) = captured.err.strip().splitlines()
    return line


def test_parameters_and_operations_equal_the_models(capsys):
    from align_keras.cli.assemble import build_model
    from align_keras.models.tower_costs import image_tower_cost

    answer = planned(capsys)
    model = build_model(load_config(params_override=NANO).task.model)
    assert answer["parameters"] == {
        "image encoder": model.image_encoder.count_params(),
        "text encoder": model.text_encoder.count_params(),
        "temperature": 1,
    }
    assert answer["memory"]["weights"] == 4 * model.count_params()
    learned = sum(w.shape.num_elements() for w in model.trainable_weights)
    assert answer["memory"]["optimizer"] == 8 * learned
    image = image_tower_cost(
        width_coefficient=0.5, depth_coefficient=0.5, image_size=64, projection_dim=64
    )
    assert answer["flops"]["forward"] > 32 * image.flops
    assert answer["flops"]["backward"] == 2 * answer["flops"]["forward"]


@pytest.mark.parametrize("name", ["align_b3_mini", "align_b7_base", "align_l2_large"])
def test_a_presets_figures(capsys, name):
    from align_keras.models import presets

    preset = next(p for p in presets() if p.name == name)
    answer = planned(capsys, base=f"task.model.preset={name},{SHORT}")
    # The configuration's vocabulary is smaller than the presets'.
    width = {"mini": 256, "base": 768, "large": 1024}[name.split("_")[-1]]
    assert answer["parameters"]["image encoder"] == preset.image_parameters
    assert (
        answer["parameters"]["text encoder"] == preset.text_parameters - 99_000 * width
    )
    assert answer["flops"]["forward"] == 32 * (preset.image_flops + preset.text_flops)


def test_what_the_options_change(capsys):
    plain = planned(capsys)
    again = planned(
        capsys, "--params_override=task.model.image_encoder.rematerialize=true"
    )
    assert again["flops"]["recomputation"] > 0
    assert again["memory"]["image activations"] < plain["memory"]["image activations"]
    micro = planned(capsys, "--params_override=task.train_data.micro_batch_size=4")
    assert micro["flops"]["recomputation"] == plain["flops"]["forward"]
    assert (
        micro["memory"]["image activations"] == plain["memory"]["image activations"] / 4
    )
    half = planned(
        capsys,
        "--params_override=runtime.mixed_precision_dtype=mixed_bfloat16",
        "--device-kind=v100",
    )
    assert half["peak_flops"] == 125e12
    assert half["memory"]["image activations"] == (
        plain["memory"]["image activations"] / 2
    )
    slow = planned(capsys, "--utilisation=0.04", "--text-utilisation=0.07")
    ratios = {
        part: slow["seconds"][part] / plain["seconds"][part] for part in slow["seconds"]
    }
    assert ratios == pytest.approx(
        {
            "image encoder": 2,
            "text encoder": 4,
            "loss": 4,
            "update of the weights": 1,
        }
    )


def test_an_experiment_and_a_file_over_it(capsys, tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text("task:\n  model:\n    projection_dim: 320\n")
    arguments = ("--experiment=align_b5_base", f"--config_file={path}", "--devices=16")
    answer = planned(capsys, *arguments)
    assert answer["train_steps"] == 1000  # --params_override comes last.
    assert answer["devices"] == 16


def test_the_table(capsys):
    text = plan(capsys)
    for words in (
        "2 × tpu_v3, 16 pairs on each",
        "parameters",
        "operations a step",
        "memory of a device",
        "gathered embeddings",
        "1,000 steps at 8% (text 28%) of 61.5 TFLOPS",
        "update of the weights",
    ):
        assert words in text
    assert "Less is needed" not in text


def test_what_does_not_fit_is_said(capsys):
    override = "--params_override=task.train_data.global_batch_size=65536"
    assert "More than a device's 16 GiB." in " ".join(plan(capsys, override).split())
    assert planned(capsys, override)["fits"] is False
    assert planned(capsys)["fits"] is True
    assert planned(capsys, "--device-kind=cpu")["fits"] is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--devices=3", "--device-kind=h100"), "must be a multiple of the devices"),
        (("--devices=0", "--device-kind=h100"), "received 0"),
        (("--devices=2", "--device-kind=tpuv3"), "did you mean tpu_v3?"),
        (("--devices=2", "--device-kind=h100", "--utilisation=0"), "--utilisation"),
        (("--devices=2", "--device-kind=h100", "--utilisation=nan"), "--utilisation"),
        (
            ("--devices=2", "--device-kind=h100", "--text-utilisation=1.1"),
            "--text-utilisation must be > 0 and <= 1, received 1.1",
        ),
        (
            ("--devices=2", "--device-kind=h100", "--experiment=align_b7_bass"),
            "did you mean 'align_b7_base'?",
        ),
        (
            (
                "--devices=4096",
                "--device-kind=h100",
                "--params_override=task.train_data.micro_batch_size=8",
            ),
            "micro_batch_size must divide a device's 4 pairs",
        ),
    ],
)
def test_wrong_inputs_are_one_line(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


def test_slots():
    def slots(override):
        return optimizer_slots(
            load_config(params_override=override).trainer.optimizer_config
        )

    optimizer = "trainer.optimizer_config.optimizer"
    average = "trainer.optimizer_config.ema.average_decay=0.9"
    assert slots("") == 2
    assert slots(f"{optimizer}.type=adamw,{average}") == 3
    assert slots(f"{optimizer}.type=sgd") == 1
    assert slots(f"{optimizer}.type=sgd,{optimizer}.sgd.momentum=0.0,{average}") == 1


@pytest.mark.ci
def test_slots_are_those_of_the_optimizers():
    from align_keras.cli.assemble import build_model
    from align_keras.cli.assemble_training import compile_model

    for kind in ("lamb", "adamw", "sgd"):
        config = load_config(
            params_override=f"{NANO},trainer.optimizer_config.optimizer.type={kind},"
            "trainer.optimizer_config.ema.average_decay=0.9"
        )
        model = build_model(config.task.model)
        compile_model(model, config)
        held = sum(v.shape.num_elements() for v in model.optimizer.variables)
        sizes = run_sizes(config, 1)
        learned = 1 + sizes.image.learned + sizes.text.learned
        # And the iterations and the learning rate.
        assert held - sizes.slots * learned in (1, 2)


def test_a_plan_needs_no_tensorflow():
    script = (
        "import sys; from align_keras.cli.main import main;"
        "main(['plan', '--experiment=align_l2_large', '--devices=1024',"
        "'--device-kind=tpu_v3']);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert answer.returncode == 0, answer.stderr
