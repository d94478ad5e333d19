"""`align-keras plan`: its estimates, its tables and its errors."""

import json
import re
import subprocess
import sys

import pytest

from align_keras.cli.main import main
from align_keras.config import experiments, load_config
from align_keras.planning.run_plan import optimizer_slots, run_sizes
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


def plan_as_table(capsys, *arguments, base=NANO):
    """Runs the command for two TPU v3 cores and returns stdout."""
    arguments = ["--devices=2", "--device-kind=tpu_v3", *arguments]
    code = main(["plan", f"--params_override={base}", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def plan_as_json(capsys, *arguments, base=NANO):
    """Runs the command for two TPU v3 cores and returns the estimates."""
    return json.loads(plan_as_table(capsys, "--json", *arguments, base=base))


def test_parameters_and_operations_match_the_model(capsys):
    from align_keras.presets.tower_costs import image_tower_cost
    from align_keras.runs.model_from_config import build_model

    estimates = plan_as_json(capsys)
    model = build_model(load_config(params_override=NANO).task.model)
    assert estimates["parameters"] == {
        "image encoder": model.image_encoder.count_params(),
        "text encoder": model.text_encoder.count_params(),
        "temperature": 1,
    }
    assert estimates["memory"]["weights"] == 4 * model.count_params()
    num_trainable = sum(w.shape.num_elements() for w in model.trainable_weights)
    assert estimates["memory"]["optimizer"] == 8 * num_trainable
    image = image_tower_cost(
        width_coefficient=0.5, depth_coefficient=0.5, image_size=64, projection_dim=64
    )
    assert estimates["flops"]["forward"] > 32 * image.flops
    assert estimates["flops"]["backward"] == 2 * estimates["flops"]["forward"]


@pytest.mark.parametrize("name", ["align_b3_mini", "align_b7_base", "align_l2_large"])
def test_the_plan_of_a_preset_matches_its_table(capsys, name):
    from align_keras.models import presets

    preset = next(p for p in presets() if p.name == name)
    estimates = plan_as_json(capsys, base=f"task.model.preset={name},{SHORT}")
    # The vocabulary of the configuration has 1,000 words, that of the presets 100,000.
    width = {"mini": 256, "base": 768, "large": 1024}[name.split("_")[-1]]
    assert estimates["parameters"]["image encoder"] == preset.image_parameters
    assert (
        estimates["parameters"]["text encoder"]
        == preset.text_parameters - 99_000 * width
    )
    assert estimates["flops"]["forward"] == 32 * (
        preset.image_flops + preset.text_flops
    )


def test_options_change_memory_operations_and_time(capsys):
    default_plan = plan_as_json(capsys)
    rematerialized_plan = plan_as_json(
        capsys, "--params_override=task.model.image_encoder.rematerialize=true"
    )
    assert rematerialized_plan["flops"]["recomputation"] > 0
    assert (
        rematerialized_plan["memory"]["image activations"]
        < default_plan["memory"]["image activations"]
    )
    micro_batch_plan = plan_as_json(
        capsys, "--params_override=task.train_data.micro_batch_size=4"
    )
    assert (
        micro_batch_plan["flops"]["recomputation"] == default_plan["flops"]["forward"]
    )
    assert (
        micro_batch_plan["memory"]["image activations"]
        == default_plan["memory"]["image activations"] / 4
    )
    mixed_precision_plan = plan_as_json(
        capsys,
        "--params_override=runtime.mixed_precision_dtype=mixed_bfloat16",
        "--device-kind=v100",
    )
    assert mixed_precision_plan["peak_flops"] == 125e12
    assert mixed_precision_plan["memory"]["image activations"] == (
        default_plan["memory"]["image activations"] / 2
    )
    low_utilization_plan = plan_as_json(
        capsys, "--utilization=0.04", "--text-utilization=0.07"
    )
    ratios = {
        part: low_utilization_plan["seconds"][part] / default_plan["seconds"][part]
        for part in low_utilization_plan["seconds"]
    }
    assert ratios == pytest.approx(
        {
            "image encoder": 2,
            "text encoder": 4,
            "loss": 4,
            "update of the weights": 1,
        }
    )


# Plans of the protocols that train


def plan_stages(capsys, *arguments):
    """Runs the command for TPU v3 cores and returns the estimates of all stages."""
    code = main(["plan", "--json", "--device-kind=tpu_v3", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_the_stages_of_a_protocol_match_a_calculation(capsys):
    from align_keras.models import presets

    arguments = ("--protocol=imagenet_full", "--devices=64")
    estimates = plan_stages(capsys, *arguments, "--params_override=rematerialize=false")
    (preset,) = [p for p in presets() if p.name == "align_l2_large"]
    assert list(estimates["stages"]) == ["head", "full"]
    head, full = estimates["stages"].values()
    # The image encoder L2 has 1,376 features. The classifier has a kernel and a bias.
    # Both stages hold the weights of the encoder and of the classifier.
    weights = preset.image_parameters + 1377 * 1000
    for stage in (head, full):
        assert stage["parameters"] == {"image encoder": weights}
        assert stage["train_steps"] == 100 * 1_281_167 // 1024
        assert stage["memory"]["weights"] == 4 * weights
        assert set(stage["flops"]) == {"forward", "backward", "recomputation"}
    # The optimizer stores the momentum of the classifier only.
    assert head["memory"]["optimizer"] == 4 * 1377 * 1000
    assert head["memory"]["image activations"] == 0
    assert head["flops"]["forward"] == 1024 * (preset.image_flops + 2 * 1376 * 1000)
    assert full["flops"]["backward"] == 2 * full["flops"]["forward"]
    assert full["fits"] is False and head["fits"] is True
    assert estimates["days"] == pytest.approx(head["days"] + full["days"])


def test_options_of_a_recipe_change_memory_and_operations(capsys):
    arguments = ("--protocol=fine_grained", "--devices=8", "--params_override")
    default_plan, micro_batch_plan, mixed_precision_plan = (
        plan_stages(capsys, *arguments, options)["stages"]["full"]
        for options in (
            "rematerialize=false",
            "rematerialize=true,micro_batch_size=8",
            "rematerialize=false,runtime.mixed_precision_dtype=mixed_bfloat16",
        )
    )
    # Micro-batches need a second buffer for the sum of their gradients. Only the blocks
    # of the encoder repeat their forward pass.
    assert (
        0
        < micro_batch_plan["flops"]["recomputation"]
        < micro_batch_plan["flops"]["forward"]
    )
    assert (
        micro_batch_plan["memory"]["gradients"]
        == 2 * default_plan["memory"]["gradients"]
    )
    activations = default_plan["memory"]["image activations"]
    assert micro_batch_plan["memory"]["image activations"] < activations / 4
    assert mixed_precision_plan["memory"]["image activations"] == activations / 2
    tables = ["plan", "--device-kind=tpu_v3", *arguments, "rematerialize=false"]
    assert main(tables) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fine_grained, head: 8 × tpu_v3, 32 images per device" in text
    assert "rematerialize=true, micro_batch_size" in text


def test_a_sweep_is_planned_with_its_largest_trial(capsys):
    arguments = ("--protocol=vtab", "--experiment=align_b7_base", "--devices=2")
    (swept_plan,) = plan_stages(capsys, *arguments)["stages"].values()
    assert swept_plan["train_steps"] == 2500
    # The sweep has batches of 128 and 256. The plan uses the larger one.
    fixed_options = ("--params_override", "sweep.trials=0,batch_size=256")
    (fixed_plan,) = plan_stages(capsys, *arguments, *fixed_options)["stages"].values()
    assert swept_plan == fixed_plan


def test_the_batches_of_the_evaluation_are_planned(capsys):
    """A batch of large evaluation images needs more memory than a training batch."""

    def in_flight(override):
        arguments = ("--protocol=imagenet_frozen", "--devices=8", "--params_override")
        head = plan_stages(capsys, *arguments, override)["stages"]["head"]
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
def test_the_header_of_a_recipe_names_the_smallest_number_of_devices(capsys, name):
    """The number of devices and the memory match the command in the header."""
    hardware = header_of(HEADERS[name].read_text(encoding="utf-8"))["Hardware"]
    command, claims = re.search(r"by align-keras (plan .*) K: (.*)", hardware).groups()
    claims = re.findall(r"(\d+) × (\w+) \(([\d.]+) GiB on each\)", claims)
    kinds = [kind for _, kind, _ in claims]
    assert len(kinds) == 2 and kinds[0].startswith("tpu") and kinds[1] in GPUS
    for devices, kind, memory in claims:
        assert main([*command.split(), kind, "--json"]) == 0
        estimates = json.loads(capsys.readouterr().out)
        stages = estimates.get("stages", {"train": estimates}).values()
        assert {stage["devices"] for stage in stages} == {int(devices)}
        assert all(stage["fits"] for stage in stages)
        max_memory = max(sum(stage["memory"].values()) for stage in stages) / 2**30
        assert float(memory) == pytest.approx(max_memory, abs=0.05001)


def test_fewer_devices_than_planned_have_too_little_memory(capsys):
    smallest_plan = plan_a_run(capsys)
    assert smallest_plan["fits"] is True and smallest_plan["devices"] > 1
    assert (
        plan_a_run(capsys, f"--devices={smallest_plan['devices'] // 2}")["fits"]
        is False
    )


def plan_a_run(capsys, *arguments):
    """Returns the estimates of align_b7_base for A100 GPUs."""
    arguments = ["--experiment=align_b7_base", "--device-kind=a100_80", *arguments]
    assert main(["plan", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_overrides_the_experiment(capsys, tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text("task:\n  model:\n    projection_dim: 320\n")
    arguments = ("--experiment=align_b5_base", f"--config_file={path}", "--devices=16")
    estimates = plan_as_json(capsys, *arguments)
    # --params_override takes precedence over the file.
    assert estimates["train_steps"] == 1000
    assert estimates["devices"] == 16


def test_the_table_lists_all_sections(capsys):
    text = plan_as_table(capsys)
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


def test_a_run_that_exceeds_the_memory_is_reported(capsys):
    override = "--params_override=task.train_data.global_batch_size=65536"
    text = " ".join(plan_as_table(capsys, override).split())
    assert "exceeds" in text
    assert plan_as_json(capsys, override)["fits"] is False
    assert plan_as_json(capsys)["fits"] is True
    assert plan_as_json(capsys, "--device-kind=cpu")["fits"] is None


def test_optimizer_slots_are_counted():
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
def test_optimizer_slots_match_the_optimizers():
    from align_keras.runs.model_from_config import build_model, compile_model

    model = build_model(load_config(params_override=NANO).task.model)
    for kind in ("lamb", "muon", "sgd"):
        config = load_config(
            params_override=f"{NANO},trainer.optimizer_config.optimizer.type={kind},"
            "trainer.optimizer_config.ema.average_decay=0.9"
        )
        compile_model(model, config)
        model.build_optimizer()
        num_optimizer_values = sum(
            v.shape.num_elements() for v in model.optimizer.variables
        )
        sizes = run_sizes(config, 1)
        num_trainable = 1 + sizes.image.learned + sizes.text.learned
        # The optimizer also has variables for iterations and the learning rate.
        assert num_optimizer_values - sizes.slots * num_trainable in (1, 2)


def test_a_plan_does_not_import_tensorflow():
    script = (
        "import sys; from align_keras.cli.main import main;"
        "main(['plan', '--experiment=align_l2_large', '--devices=1024',"
        "'--device-kind=tpu_v3']);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert result.returncode == 0, result.stderr
