"""The commands of the page "Reproduce the paper" run on small data sets."""

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
# Classes of ImageNet: tench, goldfish, banana and tabby cat.
WORDNET_IDS = ["n01440764", "n01443537", "n07753592", "n02123045"]
# Overrides that make training fast. The commands are otherwise those of the page.
FAST_RECIPES = {
    "imagenet_frozen": "head.epochs=1,head.train_size=32,head.eval_size=32",
    "imagenet_full": "head.epochs=1,head.train_size=32,head.eval_size=32,"
    "full.epochs=1,full.train_size=32,full.eval_size=32",
    "fine_grained": "runs=1,head.steps=1,full.steps=null,head.train_size=32,"
    "head.eval_size=32",
    "vtab": "full.steps=null,head.steps=1,head.train_size=32,head.eval_size=32,"
    "runs=1,sweep.trials=1,sweep.steps=[1],sweep.batch_size=[4]",
}


def commands_of_page():
    """Returns the `align-keras` commands of the page that have options."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"`(align-keras [^`\n]+)`", text)
    lines += re.findall(r"^(align-keras .+)$", text, flags=re.MULTILINE)
    # The page mentions `align-keras corpus build` without options, which cannot run. A
    # separate guide has the complete command.
    return [line for line in dict.fromkeys(lines) if "--" in line]


COMMANDS = commands_of_page()


def _with_marks(command):
    """Returns the test parameter of a command with its tier and its requirements."""
    is_plan = command.startswith("align-keras plan")
    marks = [pytest.mark.ci if is_plan else pytest.mark.release]
    if "zero_shot" in command:
        marks.append(needs("clip_benchmark"))
    if "--data icons" in command:
        marks.append(needs("qtawesome"))
    return pytest.param(command, marks=marks, id=command.removeprefix("align-keras "))


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    """Folder with a model M, data sets of the paper in data/, and of TFDS in tfds/."""
    work_folder = tmp_path_factory.mktemp("place")
    small_align().save_to_preset(work_folder / "M")
    data = work_folder / "data"
    for name in ("flickr30k", "coco", "SimLex-999"):
        (data / name).mkdir(parents=True)
    write_flickr30k(data / "flickr30k")
    write_coco(data / "coco")
    write_cxc(data / "cxc", cxc_rows())
    write_multi30k(data / "multi30k", data / "flickr30k/images", 1000)
    write_simlex(data / "SimLex-999/SimLex-999.txt", simlex_lines(999))
    for wordnet_id in WORDNET_IDS:
        folder = work_folder / "imagenet/val" / wordnet_id
        folder.mkdir(parents=True)
        for row in range(2):
            content = jpeg(len(wordnet_id) + row)
            (folder / f"ILSVRC2012_val_{row:08}.JPEG").write_bytes(content)
    examples = functools.partial(imagenet_examples, WORDNET_IDS * 4)
    splits = {"train": examples(), "validation": examples()}
    prepare("imagenet2012", work_folder / "tfds", splits)
    flowers = functools.partial(imagenet_examples, [0, 1, 2, 3] * 4)
    splits = {split: flowers() for split in ("train", "validation", "test")}
    prepare("oxford_flowers102", work_folder / "tfds", splits)
    # The training commands name these tables and files of experiments/.
    separators = {
        "pairs/train.tsv": "\t",
        "coco/karpathy_val.tsv": "\t",
        "my_pairs.csv": ",",
        "test.csv": ",",
    }
    for name, separator in separators.items():
        table = write_pairs(work_folder / pathlib.Path(name).parent)
        rows = re.findall(r'"image": "(.*?)", "caption": "(.*?)"', table.read_text())
        lines = [separator.join(row) for row in [("image", "caption"), *rows]]
        (work_folder / name).write_text("\n".join(lines))
    (work_folder / "experiments").symlink_to(ROOT / "experiments")
    return work_folder


@pytest.fixture
def run(work_folder, monkeypatch, capsys):
    monkeypatch.chdir(work_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(work_folder / "cache"))
    # TFDS reads the environment variable when it is imported, and this constant later.
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(work_folder / "tfds")
    )

    def run(command):
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train":
            arguments += ["--params_override", SMALL]
            arguments += [
                "--params_override",
                "runtime.distribution_strategy=one_device",
            ]
        for name, recipe in FAST_RECIPES.items():
            if arguments[:2] == ["evaluate", name]:
                arguments += ["--params_override", f"batch_size=4,{recipe}"]
        code = main(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


@pytest.fixture
def stack():
    """`ExitStack` that closes after the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_the_page_has_a_command_for_each_table():
    text = " ".join(COMMANDS)
    for name in ("retrieval", "cxc_retrieval", "cxc_similarity", "zero_shot", "knn"):
        assert f"evaluate {name} --model M" in text
    for name in ("multi30k", "simlex", "composed", "vtab", "fine_grained"):
        assert f"evaluate {name} --model M" in text
    assert not [command for command in COMMANDS if "…" in command]


@pytest.mark.parametrize("command", list(map(_with_marks, COMMANDS)))
def test_a_command_of_the_page_runs(run, command, monkeypatch, stack):
    if "composed" in command:
        _limit_icons(monkeypatch)
    if "evaluate vtab" in command:
        command = _use_mock_data(command, monkeypatch, stack)
    if "--suite" in command:
        # Without TFDS data sets, the suite skips the protocols that train, which have
        # separate tests.
        monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", "none")
    out = run(command)
    if "zero_shot" in command:
        # The result of the paper is printed only for the prompts of the paper.
        assert ("76.4" in out) == ("imagenet2012" in command)
        assert "zero_shot/top_1" in out


def _limit_icons(monkeypatch):
    """Limits the icons to those of six words, because drawing all icons is slow."""
    from align_keras import datasets
    from align_keras.datasets import icons

    names = [
        f"{base}{word}"
        for base in ("bridge", "building", "heart", "house", "person", "plane")
        for word in ("", "-circle-check", "-circle-xmark", "-circle-exclamation")
    ]
    read = icons.read_font_and_charmap

    def read_some_icons(folder, stem):
        font, charmap = read(folder, stem)
        return font, {name: charmap[name] for name in names if name in charmap}

    monkeypatch.setattr(icons, "TRAIN_FAMILIES", {})
    monkeypatch.setattr(icons, "read_font_and_charmap", read_some_icons)
    build = functools.partial(datasets.open_corpus, data_dir="icons_data")
    monkeypatch.setattr(datasets, "open_corpus", build)


def _use_mock_data(command, monkeypatch, stack):
    """Returns the command for two tasks of VTAB, whose data TFDS mocks."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks import tfds_images, vtab
    from tests.helpers.small_benchmarks import create_unprepared_builder

    for module in (benchmarks, vtab, tfds_images):
        monkeypatch.setattr(module, "prepared_builder", create_unprepared_builder)
    stack.enter_context(tfds.testing.mock_data(num_examples=6))
    return f"{command} --data vtab/svhn_cropped+dsprites_label_orientation"
