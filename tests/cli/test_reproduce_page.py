"""The commands of the page Reproduce the paper run on small data of that layout."""

import contextlib
import functools
import pathlib
import re
import shlex

import pytest

from align_keras.cli.main import main
from tests.helpers.oracle_process import needs
from tests.helpers.small import small_align
from tests.helpers.small_benchmarks import (
    cxc_rows,
    imagenet_examples,
    jpeg,
    prepare,
    simlex_lines,
    write_coco,
    write_cxc,
    write_flickr30k,
    write_multi30k,
    write_simlex,
)
from tests.helpers.small_run import SMALL, write_pairs

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs/pages/guides/reproduce.md"
# Tench, goldfish, banana and tabby cat.
IDS = ["n01440764", "n01443537", "n07753592", "n02123045"]
# What makes the recipes of training small. The commands are otherwise as on the page.
RECIPES = {
    "imagenet_frozen": "head.epochs=1,head.train_size=32,head.eval_size=32",
    "imagenet_full": "head.epochs=1,head.train_size=32,head.eval_size=32,"
    "full.epochs=1,full.train_size=32,full.eval_size=32",
    "fine_grained": "runs=1,head.steps=1,full.steps=null,head.train_size=32,"
    "head.eval_size=32",
    "vtab": "full.steps=null,head.steps=1,head.train_size=32,head.eval_size=32,"
    "runs=1,sweep.trials=1,sweep.steps=[1],sweep.batch_size=[4]",
}


def commands_of_page():
    """The `align-keras` commands in code, without a final placeholder."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"`(align-keras [^`\n]+)`", text)
    lines += re.findall(r"^(align-keras .+)$", text, flags=re.MULTILINE)
    # `corpus build` is only named; its page has the command.
    return [line for line in dict.fromkeys(lines) if "--" in line]


COMMANDS = commands_of_page()


def _tier(command):
    is_plan = command.startswith("align-keras plan")
    marks = [pytest.mark.ci if is_plan else pytest.mark.release]
    if "zero_shot" in command:
        marks.append(needs("clip_benchmark"))
    if "--data icons" in command:
        marks.append(needs("qtawesome"))
    return pytest.param(command, marks=marks, id=command.removeprefix("align-keras "))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model M, the sets of the paper in data/, and TFDS's in tfds/."""
    place = tmp_path_factory.mktemp("place")
    small_align().save_to_preset(place / "M")
    data = place / "data"
    for name in ("flickr30k", "coco", "SimLex-999"):
        (data / name).mkdir(parents=True)
    write_flickr30k(data / "flickr30k")
    write_coco(data / "coco")
    write_cxc(data / "cxc", cxc_rows())
    write_multi30k(data / "multi30k", data / "flickr30k/images", 1000)
    write_simlex(data / "SimLex-999/SimLex-999.txt", simlex_lines(999))
    for wordnet_id in IDS:
        folder = place / "imagenet/val" / wordnet_id
        folder.mkdir(parents=True)
        for row in range(2):
            content = jpeg(len(wordnet_id) + row)
            (folder / f"ILSVRC2012_val_{row:08}.JPEG").write_bytes(content)
    examples = functools.partial(imagenet_examples, IDS * 4)
    splits = {"train": examples(), "validation": examples()}
    prepare("imagenet2012", place / "tfds", splits)
    flowers = functools.partial(imagenet_examples, [0, 1, 2, 3] * 4)
    splits = {split: flowers() for split in ("train", "validation", "test")}
    prepare("oxford_flowers102", place / "tfds", splits)
    # For the ablation: both tables, and the files that the command names.
    for name in ("pairs/train.tsv", "coco/karpathy_val.tsv"):
        table = write_pairs(place / pathlib.Path(name).parent)
        rows = re.findall(r'"image": "(.*?)", "caption": "(.*?)"', table.read_text())
        lines = ["image\tcaption", *("\t".join(row) for row in rows)]
        (place / name).write_text("\n".join(lines))
    (place / "experiments").symlink_to(ROOT / "experiments")
    return place


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    # TFDS asks its variable when it is imported; this is where it looks afterwards.
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(place / "tfds")
    )

    def run(command):
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train":
            arguments += ["--params_override", SMALL]
            arguments += [
                "--params_override",
                "runtime.distribution_strategy=one_device",
            ]
        for name, recipe in RECIPES.items():
            if arguments[:2] == ["evaluate", name]:
                arguments += ["--params_override", f"batch_size=4,{recipe}"]
        code = main(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def test_the_page_has_a_command_for_each_table():
    text = " ".join(COMMANDS)
    for name in ("retrieval", "cxc_retrieval", "cxc_similarity", "zero_shot", "knn"):
        assert f"evaluate {name} --model M" in text
    for name in ("multi30k", "simlex", "composed", "vtab", "fine_grained"):
        assert f"evaluate {name} --model M" in text
    assert not [command for command in COMMANDS if "…" in command]


@pytest.mark.parametrize("command", list(map(_tier, COMMANDS)))
def test_a_command_runs_as_it_is_written(run, command, monkeypatch, stack):
    if "composed" in command:
        _few_icons(monkeypatch)
    if "evaluate vtab" in command:
        command = _on_mock_data(command, monkeypatch, stack)
    if "--suite" in command:
        # Tables that train need none of TFDS's sets here; the commands above run them.
        monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", "none")
    out = run(command)
    if "zero_shot" in command:
        # The paper's figure stands beside the paper's prompts alone.
        assert ("76.4" in out) == ("imagenet2012" in command)
        assert "zero_shot/top_1" in out


def _few_icons(monkeypatch):
    """Leaves the icons that differ by three words, for their fonts are large."""
    from align_keras import datasets
    from align_keras.datasets import icons

    names = [
        f"{base}{word}"
        for base in ("bridge", "building", "heart", "house", "person", "plane")
        for word in ("", "-circle-check", "-circle-xmark", "-circle-exclamation")
    ]
    read = icons.read_font_and_charmap

    def some(folder, stem):
        font, charmap = read(folder, stem)
        return font, {name: charmap[name] for name in names if name in charmap}

    monkeypatch.setattr(icons, "TRAIN_FAMILIES", {})
    monkeypatch.setattr(icons, "read_font_and_charmap", some)
    build = functools.partial(datasets.open_corpus, data_dir="icons_data")
    monkeypatch.setattr(datasets, "open_corpus", build)


def _on_mock_data(command, monkeypatch, stack):
    """Reads two of VTAB's 19 tasks from TFDS's own mock of its sets."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks import labeled_images, vtab
    from tests.cli.evaluated import unprepared

    for module in (benchmarks, vtab, labeled_images):
        monkeypatch.setattr(module, "prepared_builder", unprepared)
    stack.enter_context(tfds.testing.mock_data(num_examples=6))
    return f"{command} --data vtab/svhn_cropped+dsprites_label_orientation"
