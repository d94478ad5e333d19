"""`align-keras plan`: its table, its JSON and its wrong inputs."""

import json
import re
import subprocess
import sys

import pytest

from align_keras.cli.main import main
from align_keras.config import experiments, load_config
from align_keras.planning.run_plan import optimizer_slots, run_sizes
from align_keras.planning.size_plans import plan_index
from tests.helpers.headers import header_of

GPUS = ("v100", "a100_40", "a100_80", "h100")
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
    from align_keras.models.tower_costs import image_tower_cost
    from align_keras.runs.assemble import build_model

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
    slow = planned(capsys, "--utilization=0.04", "--text-utilization=0.07")
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


# --- Protocols that train. ---


def planned_stages(capsys, *arguments):
    code = main(["plan", "--json", "--device-kind=tpu_v3", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_a_protocols_stages_by_hand(capsys):
    from align_keras.models import presets

    answer = planned_stages(capsys, "--protocol=imagenet_full", "--devices=64")
    (preset,) = [p for p in presets() if p.name == "align_l2_large"]
    assert list(answer["stages"]) == ["head", "full"]
    head, full = answer["stages"].values()
    # L2's own width is 1376; both begin with its weights and a bias for each class.
    weights = preset.image_parameters + 1377 * 1000
    for stage in (head, full):
        assert stage["parameters"] == {"image encoder": weights}
        assert stage["train_steps"] == 100 * 1_281_167 // 1024
        assert stage["memory"]["weights"] == 4 * weights
        assert set(stage["flops"]) == {"forward", "backward", "recomputation"}
    assert head["memory"]["optimizer"] == 4 * 1377 * 1000  # Momentum alone.
    assert head["memory"]["image activations"] == 0
    assert head["flops"]["forward"] == 1024 * (preset.image_flops + 2 * 1376 * 1000)
    assert full["flops"]["backward"] == 2 * full["flops"]["forward"]
    assert full["fits"] is False and head["fits"] is True
    assert answer["days"] == pytest.approx(head["days"] + full["days"])


def test_what_a_recipes_options_change(capsys):
    arguments = ("--protocol=fine_grained", "--devices=8", "--params_override")
    plain, micro, half = (
        planned_stages(capsys, *arguments, options)["stages"]["full"]
        for options in (
            "seed=0",
            "rematerialize=true,micro_batch_size=8",
            "runtime.mixed_precision_dtype=mixed_bfloat16",
        )
    )
    # Micro-batches' gradients are added up; only the blocks are computed again.
    assert 0 < micro["flops"]["recomputation"] < micro["flops"]["forward"]
    assert micro["memory"]["gradients"] == 2 * plain["memory"]["gradients"]
    activations = plain["memory"]["image activations"]
    assert micro["memory"]["image activations"] < activations / 4
    assert half["memory"]["image activations"] == activations / 2
    tables = ["plan", "--device-kind=tpu_v3", *arguments[:2]]
    assert main(tables) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fine_grained, head: 8 × tpu_v3, 32 images per device" in text
    assert "set rematerialize=true, micro_batch_size or" in text


def test_another_model_and_the_largest_trial_of_a_sweep(capsys):
    arguments = ("--protocol=vtab", "--experiment=align_b7_base", "--devices=2")
    (full,) = planned_stages(capsys, *arguments)["stages"].values()
    assert full["train_steps"] == 2500
    # 256, of 128 and 256.
    fixed = ("--params_override", "sweep.trials=0,batch_size=256")
    (same,) = planned_stages(capsys, *arguments, *fixed)["stages"].values()
    assert full == same
    small = planned_stages(capsys, *arguments, "--num-classes=10")["stages"]["full"]
    fewer = 990 * 641
    assert small["parameters"]["image encoder"] == (
        full["parameters"]["image encoder"] - fewer
    )
    assert (
        planned_stages(
            capsys, "--protocol=imagenet_frozen", "--devices=2", "--num-images=2048"
        )["stages"]["head"]["train_steps"]
        == 200
    )


def test_the_largest_batch_is_judged_too(capsys):
    """At a greater side than the frozen encoder's training."""

    def in_flight(override):
        arguments = ("--protocol=imagenet_frozen", "--devices=8", "--params_override")
        head = planned_stages(capsys, *arguments, override)["stages"]["head"]
        return head["memory"]["in flight"]

    assert in_flight("head.eval_size=360") == pytest.approx(
        in_flight("head.eval_size=180,head.train_size=360")
    )
    assert in_flight("head.eval_size=360") > in_flight("head.eval_size=289")


HEADERS = {
    path.stem: path
    for folder in (".", "evaluation")
    for path in experiments(folder).values()
    if "CPU" not in header_of(path.read_text(encoding="utf-8"))["Hardware"]
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_names_the_fewest_devices(capsys, name):
    """As the command that stands in the header prints them."""
    hardware = header_of(HEADERS[name].read_text(encoding="utf-8"))["Hardware"]
    command, claims = re.search(r"by align-keras (plan .*) K: (.*)", hardware).groups()
    claims = re.findall(r"(\d+) × (\w+) \(([\d.]+) GiB on each\)", claims)
    kinds = [kind for _, kind, _ in claims]
    assert len(kinds) == 2 and kinds[0].startswith("tpu") and kinds[1] in GPUS
    for devices, kind, memory in claims:
        assert main([*command.split(), kind, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        stages = answer.get("stages", {"train": answer}).values()
        assert {own["devices"] for own in stages} == {int(devices)}
        assert all(own["fits"] for own in stages)
        most = max(sum(own["memory"].values()) for own in stages) / 2**30
        assert float(memory) == pytest.approx(most, abs=0.05001)


def test_fewer_devices_do_not_hold_it(capsys):
    fewest = plan_of(capsys)
    assert fewest["fits"] is True and fewest["devices"] > 1
    assert plan_of(capsys, f"--devices={fewest['devices'] // 2}")["fits"] is False


def plan_of(capsys, *arguments):
    arguments = ["--experiment=align_b7_base", "--device-kind=a100_80", *arguments]
    assert main(["plan", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


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
        "2 × tpu_v3, 16 pairs per device",
        "parameters",
        "operations per step, all devices",
        "memory per device",
        "gathered embeddings",
        "1,000 steps at 8% (text 28%) of 61.5 TFLOPS",
        "update of the weights",
    ):
        assert words in text
    assert "exceeds" not in text


def test_what_does_not_fit_is_said(capsys):
    override = "--params_override=task.train_data.global_batch_size=65536"
    assert "The run exceeds the 16 GiB of a device." in " ".join(
        plan(capsys, override).split()
    )
    assert planned(capsys, override)["fits"] is False
    assert planned(capsys)["fits"] is True
    assert planned(capsys, "--device-kind=cpu")["fits"] is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ("--devices=3", "--device-kind=h100"),
            "--devices must be a divisor of the global batch size 16384",
        ),
        (("--devices=0", "--device-kind=h100"), "Received: --devices=0"),
        (("--devices=2", "--device-kind=tpuv3"), "Did you mean tpu_v3?"),
        (("--devices=2", "--device-kind=h100", "--utilization=0"), "--utilization"),
        (("--devices=2", "--device-kind=h100", "--utilization=nan"), "--utilization"),
        (
            ("--devices=2", "--device-kind=h100", "--text-utilization=1.1"),
            "--text-utilization must be a number from 1e-06 to 1, received 1.1",
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
            "`micro_batch_size` must be a divisor of 4, the number of pairs per device",
        ),
        (("--device-kind=cpu",), "--devices must be set for device_kind='cpu'"),
        (
            ("--device-kind=v100", "--experiment=align_l2_large"),
            "more memory than v100 has with any number of devices that divides the "
            "batch size 16,384",
        ),
        (
            ("--device-kind=h100", "--protocol=imagenet"),
            "no recipe imagenet.yaml in experiments/evaluation",
        ),
        (
            ("--device-kind=h100", "--protocol=vtab", "--num-classes=1"),
            "--num-classes must be a whole number from 2 to 1e+12, received 1",
        ),
        (
            ("--device-kind=h100", "--num-images=9", "--experiment=align_b7_base"),
            "--num-images must be used with --protocol. Received: --num-images=9",
        ),
        (
            ("--device-kind=h100", "--protocol=vtab", "--params_override=batch=1"),
            "unknown key 'batch'; did you mean 'batch_size'?",
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
    from align_keras.runs.assemble import build_model, compile_model

    for kind in ("lamb", "adamw", "muon", "sgd"):
        config = load_config(
            params_override=f"{NANO},trainer.optimizer_config.optimizer.type={kind},"
            "trainer.optimizer_config.ema.average_decay=0.9"
        )
        model = build_model(config.task.model)
        compile_model(model, config)
        model.build_optimizer()
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


def test_an_index_of_the_papers_size(capsys):
    arguments = ["plan", "--index=160000000", "--model=align_b7_base"]
    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["disk"]["vectors"] == 160_000_000 * 640 * 4
    assert planned["memory"]["approximate"] == 160_000_000 * 640 // 4
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "160,000,000 images, embeddings of 640 numbers" in shown and "25.60" in shown


@pytest.mark.parametrize(
    "images, width, exact, approximate",
    [(10_000_000, 384, 1.715, 0.120), (50_000_000, 64, 1.848, 0.117)],
)
def test_an_index_is_planned_as_measured(images, width, exact, approximate):
    # `OPENBLAS_NUM_THREADS=1 python tools/benchmarks/bench_search.py approximate`, of
    # the processor, on the machine of the plan's rates; neither size was used for
    # these.
    planned = plan_index(images, width)["query_seconds"]
    assert planned["exact"] == pytest.approx(exact, rel=0.25)
    assert planned["approximate"] == pytest.approx(approximate, rel=0.25)


def test_a_corpus_of_the_papers_size(capsys):
    arguments = ["plan", "--corpus=1800000000", "--num-images=900000000"]
    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    hours = planned["core_seconds"]["images"] / 3600
    assert hours == pytest.approx(1217, abs=1)  # 4.87 ms an image.
    assert planned["workers"] == 27
    copies = 38.6e-6 * 9e8 + 13.3e-12 * 9e8**2
    assert planned["core_seconds"]["copies"] == pytest.approx(copies)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "900,000,000 images stored" in shown and "72,000.00" in shown


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--corpus=0"], "must be a whole number from 1 to 1e+15, received 0"),
        (
            ["--corpus=5", "--num-images=-1"],
            "must be a whole number from 1 to 1e+15, received -1",
        ),
        (
            ["--index=0", "--model=align_b7_base"],
            "must be a whole number from 1 to 1e+15, received 0",
        ),
        (["--experiment=align_b7_base"], "--device-kind must be one of tpu_v2"),
        (
            ["--device-kind=h100", "--model=align_b7_base"],
            "--model must be used with --index",
        ),
    ],
)
def test_wrong_plans_of_an_index(capsys, arguments, words):
    assert main(["plan", *arguments]) == 1
    assert words in capsys.readouterr().err
