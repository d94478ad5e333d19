"""Comparison of the formulas with manual calculations and with real training steps."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from align_keras.config import load_config
from align_keras.planning.run_plan import run_sizes
from align_keras.planning.step_plan import RunSizes, plan_step
from align_keras.presets.tower_costs import TowerCost
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
IMAGE = TowerCost(
    parameters=1000,
    learned=900,
    flops=10_000,
    learned_flops=10_000,
    recomputed_flops=0,
    saved_values=500,
    peak=570,
)
TEXT = TowerCost(
    parameters=2000,
    learned=1900,
    flops=1000,
    learned_flops=1000,
    recomputed_flops=0,
    saved_values=200,
    peak=230,
)
SIZES = RunSizes(
    IMAGE, TEXT, projection_dim=8, global_batch_size=64, devices=4, train_steps=100
)


def plan(**changes):
    return plan_step(dataclasses.replace(SIZES, **changes))


def test_operations_match_a_manual_calculation():
    # Each of 64 pairs takes 11,000 operations. The product of the embeddings takes
    # 2 · 8 · 64² operations.
    assert plan().flops == {
        "forward": 704_000,
        "backward": 1_408_000,
        "recomputation": 0,
        "loss": 3 * 65_536,
    }
    assert plan(tile_size=4).flops["loss"] == 4 * 65_536
    # Without tiles, several devices compute the product once for each direction.
    assert plan(tile_size=None).flops["loss"] == 6 * 65_536
    assert plan(tile_size=None, devices=1).flops["loss"] == 3 * 65_536
    for tile_size, products in ((None, 3), (4, 4), ("auto", 3)):
        planned = plan(tile_size=tile_size, loss="sigmoid")
        assert planned.flops["loss"] == products * 65_536
    assert plan(negatives_fraction=0.25).flops["loss"] == 3 * 16_384
    # Four products of the similarities in each direction.
    assert plan(distills_similarity=True).flops["loss"] == (3 + 8) * 65_536


def test_recomputation_and_locked_towers_match_a_manual_calculation():
    rematerialized = dataclasses.replace(IMAGE, recomputed_flops=9_000)
    assert plan(image=rematerialized).flops["recomputation"] == 64 * 9_000
    assert plan(micro_batch_size=8).flops["recomputation"] == 704_000
    both = plan(image=rematerialized, micro_batch_size=8)
    assert both.flops["recomputation"] == 704_000 + 64 * 9_000
    locked = dataclasses.replace(IMAGE, learned_flops=0, saved_values=0, learned=0)
    assert plan(image=locked).flops["backward"] == 2 * 64 * 1000


def test_memory_matches_a_manual_calculation():
    memory = plan().memory
    assert memory["weights"] == 4 * 3001
    assert memory["gradients"] == 4 * 2801
    assert memory["optimizer"] == 8 * 2801
    assert memory["image activations"] == 4 * 16 * 500
    assert memory["text activations"] == 4 * 16 * 200
    # The peak of the image tower is below the stored activations of both towers.
    assert memory["in flight"] == 0
    large = dataclasses.replace(IMAGE, peak=800)
    assert plan(image=large).memory["in flight"] == 4 * 16 * 100
    # The device stores all 16 × 64 logits and has three tiles of that size.
    assert memory["logits"] == 4 * 4 * 16 * 64
    assert memory["embeddings"] == 4 * 8 * (2 * 16 + 3 * 64)
    shared = plan(shares_positives=True).memory
    assert shared["embeddings"] == 4 * 8 * (2 * 16 + 4 * 64)
    assert plan(tile_size=4).memory["logits"] == 4 * 3 * 16
    distilled = plan(distills_similarity=True).memory
    assert distilled["logits"] == memory["logits"] + 8 * 4 * 16 * 64
    assert plan(slots=3).memory["optimizer"] == 12 * 2801
    small = plan(micro_batch_size=2).memory
    assert small["image activations"] == 4 * 2 * 500
    assert small["gradients"] == 8 * 2801
    half = plan(half_precision=True).memory
    assert half["image activations"] == 2 * 16 * 500
    assert half["weights"] == 6 * 3001
    # A rematerialized tower has 16-bit copies of the weights of one block at a time.
    rematerialized = dataclasses.replace(IMAGE, copied_parameters=300)
    half = plan(image=rematerialized, half_precision=True).memory
    assert half["weights"] == 4 * 3001 + 2 * (300 + 2000 + 1)
    assert plan(image=rematerialized).memory["weights"] == 4 * 3001


def test_traffic_matches_a_manual_calculation():
    # A device receives the 16 embeddings of each of three other devices. A ring
    # all-reduce sends sums twice.
    assert plan().traffic == {
        "gathered embeddings": 3 * 16 * 8 * 4,
        "summed gradients of embeddings": 2 * 3 * 16 * 8 * 4,
        "summed gradients of weights": 6 * 2801,
    }
    shared = plan(shares_positives=True).traffic
    assert shared["gathered embeddings"] == 2 * 3 * 16 * 8 * 4
    assert set(plan(devices=1).traffic.values()) == {0}


def test_time_matches_a_manual_calculation():
    # Four devices share three passes of 10,000 and of 1,000 operations for 64 pairs.
    seconds = plan().seconds(image_rate=1000, text_rate=500, bandwidth=100)
    assert seconds == {
        "image encoder": 64 * 30_000 / 4000,
        "text encoder": 64 * 3000 / 2000,
        "loss": 3 * 65_536 / 2000,
        # The update reads the gradient. It reads and writes the weight and two slots.
        "update of the weights": 7 * 4 * 2801 / 100,
    }
    # The sum of the gradients of two micro-batches reads two and writes one number.
    micro_batches = plan(micro_batch_size=8)
    assert micro_batches.updated_bytes == 10 * 4 * 2801
    days = plan().days(1000, 500, 100)
    assert days == pytest.approx(100 * sum(seconds.values()) / 86_400)


def test_operations_of_encoders_and_of_passes_have_the_same_sum():
    rematerialized = dataclasses.replace(
        IMAGE, recomputed_flops=9_000, learned_flops=5_000
    )
    for changes in (
        {},
        {"image": rematerialized},
        {"image": rematerialized, "micro_batch_size": 8},
    ):
        step_plan = plan(**changes)
        passes = sum(step_plan.flops.values()) - step_plan.flops["loss"]
        assert sum(step_plan.encoder_flops.values()) == passes


def test_a_classifier_matches_a_manual_calculation():
    rematerialized = dataclasses.replace(IMAGE, recomputed_flops=9_000)
    step_plan = plan(image=rematerialized, text=None, micro_batch_size=8, slots=1)
    assert step_plan.parameters == {"image encoder": 1000}
    # Micro-batches of a classifier need no second pass, since their gradients add up.
    assert step_plan.flops == {
        "forward": 640_000,
        "backward": 1_280_000,
        "recomputation": 576_000,
    }
    assert step_plan.encoder_flops == {"image encoder": 2_496_000}
    assert step_plan.memory == {
        "weights": 4 * 1000,
        "gradients": 8 * 900,
        "optimizer": 4 * 900,
        "image activations": 4 * 8 * 500,
        "in flight": 4 * 8 * 70,
    }
    assert step_plan.traffic == {"summed gradients of weights": 6 * 900}
    assert step_plan.seconds(1000, 500, 100) == {
        "image encoder": 2_496_000 / 4000,
        # The update with one slot moves 5 numbers, and the second micro-batch moves 3.
        "update of the weights": 8 * 4 * 900 / 100,
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"devices": 3}, "batch size 64. Received"),
        ({"devices": 0}, "Received: devices=0"),
        ({"devices": -4}, "Received: devices=-4"),
        ({"micro_batch_size": 5}, "`micro_batch_size` must be a divisor of 16"),
        ({"virtual_batch_size": 7}, "`virtual_batch_size`"),
        ({"negatives_fraction": 1 / 3}, "negatives_fraction` must"),
    ],
)
def test_batches_that_cannot_be_divided_are_refused(changes, words):
    with pytest.raises(InputError) as caught:
        plan(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_sizes_read_the_sigmoid_loss():
    override = "task.loss.type=sigmoid,task.model.preset=align_nano"
    sizes = run_sizes(load_config(params_override=override), 4)
    assert (sizes.loss, sizes.tile_size) == ("sigmoid", "auto")
    override += ",task.loss.sigmoid.tile_size=512"
    sizes = run_sizes(load_config(params_override=override), 4)
    assert sizes.tile_size == 512


# === Comparison with real steps ===

SMALL = (
    "task.model.image_encoder.variant=efficientnet_b0,"
    "task.model.image_encoder.image_size=96,"
    "task.model.text_encoder.variant=bert_mini,"
    "task.model.text_encoder.sequence_length=32,"
    "task.train_data.global_batch_size={rows},"
    "task.train_data.micro_batch_size={micro},"
    "task.model.text_encoder.vocabulary_size={vocabulary},"
    "task.model.image_encoder.rematerialize={rematerialize},"
    "task.model.text_encoder.rematerialize={rematerialize}"
)
# Relative tolerance of memory. Allocators round up, and the order of parallel
# operations is random.
TOLERANCE = 0.2


@functools.cache
def measure(*arguments):
    """Returns the measurements of memory_script.py in a new or an earlier process."""
    return run_memory_script(*arguments)


def run_memory_script(*arguments):
    """Returns the measurements of memory_script.py in a new process."""
    result = subprocess.run(
        [sys.executable, "tests/planning/memory_script.py", *map(str, arguments)],
        cwd=ROOT,
        # These settings return freed memory to the system immediately, so that the
        # memory of the process is the memory in use.
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TOP_PAD_": "0",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def measure_and_plan(rows=16, vocabulary=2000, rematerialize="false", micro="null"):
    """Returns the measured and the planned memory of a small model."""
    overrides = SMALL.format(
        rows=rows, vocabulary=vocabulary, rematerialize=rematerialize, micro=micro
    )
    sizes = run_sizes(load_config(params_override=overrides), 1)
    return measure("step", overrides), plan_step(sizes).memory


@pytest.mark.release
def test_weights_and_optimizer_take_the_planned_memory():
    small, planned_small = measure_and_plan()
    large, planned_large = measure_and_plan(vocabulary=102_000)
    planned = sum(
        planned_large[part] - planned_small[part] for part in ("weights", "optimizer")
    )
    assert large["state"] - small["state"] == pytest.approx(planned, rel=TOLERANCE)


@pytest.mark.release
@pytest.mark.parametrize("rematerialize", ["false", "true"])
def test_activations_take_the_planned_memory(rematerialize):
    few, planned_few = measure_and_plan(rematerialize=rematerialize)
    many, planned_many = measure_and_plan(rows=48, rematerialize=rematerialize)
    planned = sum(planned_many.values()) - sum(planned_few.values())
    assert many["step"] - few["step"] == pytest.approx(planned, rel=TOLERANCE)


WIDE = (
    "task.model.image_encoder.variant=efficientnet_b0,"
    "task.model.image_encoder.image_size=32,"
    "task.model.text_encoder.num_layers=8,"
    "task.model.text_encoder.num_heads=4,"
    "task.model.text_encoder.hidden_dim={width},"
    "task.model.text_encoder.intermediate_dim={inner},"
    "task.model.text_encoder.sequence_length=8,"
    "task.model.text_encoder.vocabulary_size=2000,"
    "task.model.image_encoder.rematerialize=true,"
    "task.model.text_encoder.rematerialize=true,"
    "task.train_data.global_batch_size=4,"
    "trainer.optimizer_config.optimizer.type=sgd,"
    "runtime.mixed_precision_dtype=mixed_bfloat16"
)


@pytest.mark.release
def test_copies_of_weights_take_the_planned_memory():
    """At the peak, when all gradients exist, most weights have no 16-bit copies."""
    measurements = []
    plans = []
    weights = []
    for width in (256, 1024):
        overrides = WIDE.format(width=width, inner=4 * width)
        sizes = run_sizes(load_config(params_override=overrides), 1)
        memory = plan_step(sizes).memory
        parameters = sum(tower.parameters for tower in sizes.towers.values())
        weights.append(parameters)
        # The measurement starts after the weights have been created.
        planned = sum(memory.values()) - memory["optimizer"] - 4 * parameters
        plans.append(planned)
        measurements.append(measure("gradients", overrides)["gradients"])
    planned = plans[1] - plans[0]
    assert measurements[1] - measurements[0] <= planned
    assert measurements[1] - measurements[0] == pytest.approx(planned, rel=TOLERANCE)
    # Copies of all weights would take more.
    assert planned < 0.9 * 6 * (weights[1] - weights[0])


@pytest.mark.release
def test_micro_batches_take_the_planned_memory():
    few, planned_few = measure_and_plan(rows=96, micro=16)
    many, planned_many = measure_and_plan(rows=96, micro=48)
    planned = sum(planned_many.values()) - sum(planned_few.values())
    assert many["step"] - few["step"] == pytest.approx(planned, rel=TOLERANCE)


@pytest.mark.release
@pytest.mark.parametrize("rematerialize", ["false", "true"])
def test_a_classifier_takes_the_planned_memory(rematerialize):
    from align_keras.config import load_config, load_recipe
    from align_keras.planning.run_plan import stage_sizes

    model = SMALL.partition(",task.train_data")[0]
    measurements = []
    plans = []
    for rows in (16, 48):
        recipe = (
            f"batch_size={rows},rematerialize={rematerialize},"
            "full.train_size=96,full.eval_size=96"
        )
        sizes = stage_sizes(
            load_config(params_override=model).task.model,
            load_recipe("fine_grained", params_override=recipe),
            "full",
            1,
            num_classes=10,
        )
        measurements.append(measure("classifier", model, recipe)["step"])
        plans.append(sum(plan_step(sizes).memory.values()))
    planned = plans[1] - plans[0]
    assert measurements[1] - measurements[0] == pytest.approx(planned, rel=TOLERANCE)


@pytest.mark.release
@pytest.mark.parametrize(
    "rows, width, form",
    [
        (4096, 64, {"tile_size": None}),
        (6144, 64, {"tile_size": None, "loss": "sigmoid"}),
        (16_384, 64, {"tile_size": 2048, "loss": "sigmoid"}),
        (8192, 64, {"tile_size": "auto"}),
        (16_384, 64, {"tile_size": 1024}),
        (16_384, 64, {"tile_size": 2048}),
        (8192, 640, {"tile_size": 1024}),
    ],
)
def test_the_loss_takes_the_planned_memory(rows, width, form):
    sizes = dataclasses.replace(
        SIZES,
        projection_dim=width,
        global_batch_size=rows,
        devices=1,
        **form,
    )
    memory = plan_step(sizes).memory
    planned = memory["logits"] + memory["embeddings"]
    name = str(form["tile_size"]).lower()
    loss = form.get("loss", "contrastive")
    actual = measure("loss", rows, width, name, loss)["loss"]
    assert actual == pytest.approx(planned, rel=TOLERANCE)


@pytest.mark.release
def test_the_similarity_loss_takes_the_planned_memory():
    rows, width = 4096, 64
    sizes = dataclasses.replace(
        SIZES, projection_dim=width, global_batch_size=rows, devices=1
    )
    distilled = dataclasses.replace(sizes, distills_similarity=True)
    planned = plan_step(distilled).memory["logits"] - plan_step(sizes).memory["logits"]
    # Every process runs the independent products in another order, so its peak is
    # between five and eight matrices. The plan is the largest of these peaks, which
    # half of the processes reach within the tolerance.
    peaks = [
        run_memory_script("loss", rows, width, "none", "similarity")["loss"]
        for _ in range(8)
    ]
    assert max(peaks) == pytest.approx(planned, rel=TOLERANCE)
