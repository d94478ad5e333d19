"""Evaluates a model with mteb. Prints the results as JSON.

`python tests/helpers/mteb_script.py MODEL FOLDER STEP [RUNTIME]` runs every STEP-th
mock task, and a zero-shot classification of images that it draws in FOLDER/images.
"""

import json
import pathlib
import sys
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import align_keras


def draw_images(folder):
    """Draws crosses and disks with transparent backgrounds.

    Returns:
        Tuple of the paths, the labels and the class names.
    """
    from PIL import Image, ImageDraw

    class_names = ["blue disk", "red cross", "red disk"]
    paths = []
    labels = []
    for label, name in enumerate(class_names):
        color, shape = name.split()
        for size in (60, 90, 120):
            image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
            pen = ImageDraw.Draw(image)
            low, high = 64 - size // 2, 64 + size // 2
            if shape == "disk":
                pen.ellipse((low, low, high, high), fill=color)
            else:
                pen.rectangle((low, 54, high, 74), fill=color)
                pen.rectangle((54, low, 74, high), fill=color)
            path = folder / name / f"{size}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            paths.append(str(path))
            labels.append(label)
    return paths, labels, class_names


def zero_shot_task(paths, labels, class_names):
    """Returns a task of mteb on image files."""
    import datasets
    from mteb.mocks.mock_tasks import MockZeroShotClassificationTask

    class LocalTask(MockZeroShotClassificationTask):
        metadata = MockZeroShotClassificationTask.metadata.model_copy(
            update={"name": "LocalZeroShot"}
        )

        def load_data(self, **options):
            images = datasets.Dataset.from_dict({"image": paths, "label": labels})
            images = images.cast_column("image", datasets.Image())
            self.dataset = datasets.DatasetDict({"test": images})
            self.data_loaded = True

        def get_candidate_labels(self):
            return class_names

    return LocalTask()


def main():
    name, folder, step, *runtime = sys.argv[1:]
    model = align_keras.mteb_model(name, *runtime, license="apache-2.0")
    import mteb
    from mteb.mocks import mock_run

    mock_tasks = mock_run.get_compatible_mock_tasks(model)[:: int(step)]
    with mock.patch.object(
        mock_run, "get_compatible_mock_tasks", lambda *_, **__: mock_tasks
    ):
        mock_results = mock_run.mock_run(model)
    compatible_names = {task.metadata.name for task in mock_tasks}
    passed_names = {
        name
        for name, result in mock_results.items()
        if type(result).__name__ == "TaskResult"
    }
    task = zero_shot_task(*draw_images(pathlib.Path(folder, "images")))
    scores = mteb.evaluate(model, [task], cache=None).task_results[0].scores["test"][0]

    from tools import check_published

    figure = check_published.Figure(
        name="local",
        value=0.0,
        tolerance=0.0,
        source="",
        mteb={"task": "LocalZeroShot", "score": "accuracy"},
    )
    with mock.patch("mteb.get_tasks", lambda tasks: [task]):
        published_accuracy = check_published.measure_by_mteb(figure, model.embedder)
    meta = model.mteb_model_meta
    opened_again = meta.load_model().encode([{"text": ["a dog"]}])
    print(
        json.dumps(
            {
                "compatible": len(compatible_names),
                "passed": len(passed_names),
                "skipped": sorted(compatible_names - passed_names),
                "all_passed": mock_results.all_passed,
                "accuracy": scores["accuracy"],
                "published_accuracy": published_accuracy,
                "opened_again": bool(
                    (opened_again == model.encode([{"text": ["a dog"]}])).all()
                ),
                "has_tensorflow": "tensorflow" in sys.modules,
                "meta": {
                    key: getattr(meta, key)
                    for key in (
                        "name",
                        "embed_dim",
                        "license",
                        "modalities",
                        "n_parameters",
                    )
                },
            }
        )
    )


if __name__ == "__main__":
    main()
