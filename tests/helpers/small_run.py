"""Drawn images with captions, and a configuration that trains on them in seconds."""

import json

from PIL import Image, ImageDraw

COLORS = ["red", "green", "blue", "black", "orange", "purple", "brown", "gray"]
SHAPES = ["circle", "square", "bar", "cross", "ring"]

# Value of --params_override.
SMALL = ",".join(
    [
        "task.model.image_encoder.image_size=32",
        "task.model.image_encoder.width_coefficient=0.25",
        "task.model.image_encoder.depth_coefficient=0.3",
        "task.model.image_encoder.num_stages=3",
        "task.model.text_encoder.variant=bert_tiny",
        "task.model.text_encoder.num_layers=1",
        "task.model.text_encoder.hidden_dim=16",
        "task.model.text_encoder.intermediate_dim=32",
        "task.model.text_encoder.vocabulary_size=100",
        "task.model.text_encoder.sequence_length=8",
        "task.model.projection_dim=16",
        "task.train_data.global_batch_size=8",
        "trainer.train_steps=8",
        "trainer.steps_per_loop=2",
        "trainer.checkpoint_interval=4",
        "trainer.validation_interval=4",
        "trainer.optimizer_config.warmup.linear.warmup_steps=2",
    ]
)


# Overrides of the shortest run. The image encoder has one block and is locked, since
# TensorFlow needs seconds to trace its gradients.
TINY = ",".join(
    [
        SMALL,
        "task.model.image_encoder.num_stages=1",
        "task.model.image_encoder.locked=true",
        "trainer.train_steps=4",
        "trainer.checkpoint_interval=2",
        "trainer.validation_interval=4",
    ]
)


def pairs_override(pairs, data_dir):
    """Returns the override by which a run trains and evaluates on a table of pairs."""
    return {
        f"task.{section}.{name}": str(value)
        for section in ("train_data", "validation_data")
        for name, value in (("pairs", pairs), ("tfds_data_dir", data_dir))
    }


def write_finished_run(folder):
    """Trains on drawn images, and writes the export, the index and the report.

    Tests get the folder `folder / "run"` from the fixture `finished_run`, which builds
    it once for all processes of pytest. The table is `folder / "pairs/pairs.jsonl"`.

    Example:

    ```python
    @pytest.mark.ci
    def test_a_run_is_searched(finished_run):
        assert len(open_run(finished_run).search("a red ring", k=3)) == 3


    def test_a_run_continues(finished_run, tmp_path):
        run = shutil.copytree(finished_run, tmp_path / "run")  # before changes
    ```
    """
    from align_keras import train_experiment
    from align_keras.config import load_config

    override = pairs_override(write_pairs(folder / "pairs"), folder / "data")
    config = load_config("quickstart_stamps", params_override=[override, TINY])
    train_experiment(config, folder / "run", with_results=True)


def draw(color, shape):
    """Draws an image of 48 x 48 pixels of a color and a shape."""
    image = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(image)
    box = (8, 8, 40, 40)
    if shape == "circle":
        pen.ellipse(box, fill=color)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    elif shape == "bar":
        pen.rectangle((8, 20, 40, 28), fill=color)
    elif shape == "ring":
        pen.ellipse(box, outline=color, width=6)
    else:
        pen.line((8, 8, 40, 40), fill=color, width=6)
        pen.line((40, 8, 8, 40), fill=color, width=6)
    return image


def write_pairs(folder):
    """Writes 40 images and `pairs.jsonl`. Returns the path of `pairs.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for color in COLORS:
        for shape in SHAPES:
            name = f"{color}_{shape}.png"
            draw(color, shape).save(folder / name)
            lines.append(json.dumps({"image": name, "caption": f"a {color} {shape}"}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
