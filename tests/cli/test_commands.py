"""What all commands have in common: help, usage errors and mistakes in one line."""

import json

from align_keras.cli.main import COMMANDS
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.command_case import CommandCase
from tests.helpers.small_run import COLORS as DRAWN_COLORS
from tests.helpers.small_run import write_pairs

GOLDEN_MODEL = f"--model={GOLDEN}"


def write_table(folder):
    """Writes images and `pairs.csv`."""
    lines = ["image,caption"]
    for color in COLORS:
        (folder / f"{color}.png").write_bytes(image_bytes(color))
        lines.append(f"{color}.png,{color}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


class TestQuickstart(CommandCase):
    command = "quickstart"
    options = ("--pairs", "--model_dir", "--budget")
    mistakes = {
        ("--pairs", "nowhere.csv"): "nowhere.csv",
        ("--pairs", "column.csv"): "drawing",
        ("--pairs", "latin.csv"): "--encoding",
        ("--pairs", "empty.csv"): "empty",
        ("--pairs", "small.csv"): "global_batch_size",
        ("--pairs", "missing.csv"): "--max-bad-fraction",
        ("--params_override", "trainer.sed=1"): "'seed'",
        ("--data-dir", "gs://bucket/run"): "--data-dir",
    }
    usage_errors = [("--corpus", "photos"), ("--corpus=icons", "--pairs=a.csv")]

    def write(self, folder):
        write_pairs(folder)
        rows = [f"{color}_bar.png,a {color}\n" for color in DRAWN_COLORS]
        tables = {
            "column": "drawing,caption\nred_bar.png,a\n",
            "empty": "image,caption\n",
            "small": "image,caption\n" + "".join(rows[:3]),
            "missing": "image,caption\n" + "".join(rows[:3]) + "no.png,a\nnot.png,b\n",
        }
        for name, text in tables.items():
            (folder / f"{name}.csv").write_text(text)
        latin = "image,caption\nred_bar.png,caf\xe9\n".encode("latin-1")
        (folder / "latin.csv").write_bytes(latin)


class TestCorpus(CommandCase):
    command = "corpus"
    options = ("--source", "--out", "--params_override")
    mistakes = {
        ("build", "--out=out"): "source",
        ("build", "--out=out", "--source=zip:/"): "KIND:PATH",
        ("build", "--out=out", "--source=html:nowhere"): "nowhere",
        ("build", "--out=pairs.csv"): "pairs.csv",
        ("build", "--out=out", "--source=table:pairs.csv", "--to=a.csv"): "--to",
        ("urls", "--out=out", "--source=table:pairs.csv"): "--to",
        ("select", "--out=out"): "--where",
        ("select", "--out=out", "--where=draw < 1"): "corpus score",
        ("score", "--out=out", "--source=table:pairs.csv", "--model=no_model"): (
            "no_model"
        ),
        ("build", "--out=out", "--source=table:pairs.csv", "--config=no.yaml"): (
            "no.yaml"
        ),
        (
            "build",
            "--out=out",
            "--source=table:pairs.csv",
            "--params_override=filter.min_words=3",
        ): "min_words",
        ("filter", "--out=https://host/corpus"): "--out",
    }
    usage_errors = [(), ("bild", "--out=a"), ("build",), ("build", "--workers=0")]

    def write(self, folder):
        write_table(folder)


class TestData(CommandCase):
    command = "data"
    options = ("karpathy",)
    mistakes = {
        (
            "karpathy",
            "no.json",
            "--images=.",
            "--splits=val",
            "--out=a.tsv",
        ): "no.json",
        ("karpathy", "no.json", "--images=.", "--splits=test", "--out=a.tsv"): "test",
    }
    usage_errors = [(), ("coco",), ("karpathy", "a.json")]


class TestTrain(CommandCase):
    command = "train"
    options = ("--experiment", "--model_dir", "--params_override")
    mistakes = {
        ("--model_dir=run", "--experiment=align_b7_bass"): "align_b7_base",
        ("--model_dir=run", "--experiment=no.yaml"): "no.yaml",
        ("--model_dir=run", "--params_override=trainer.train_stepps=3"): "train_steps",
        ("--model_dir=run",): "corpus",
        ("--model_dir=hdfs://host:9000/run",): "--model_dir",
    }
    usage_errors = [(), ("--model_dir", "x", "--mode", "evl")]


class TestFinetune(CommandCase):
    command = "finetune"
    options = ("--model", "--pairs", "--out")
    mistakes = {
        ("--pairs=nowhere.csv",): "nowhere.csv",
        ("--pairs=pairs.csv", "--model=no_model"): "no_model",
        ("--pairs=pairs.csv", "--params_override=finetune.epoch=1"): "finetune.epoch",
    }
    usage_errors = [()]

    def write(self, folder):
        write_table(folder)


class TestPlan(CommandCase):
    command = "plan"
    options = ("--experiment", "--devices", "--device-kind")
    mistakes = {
        ("--device-kind=h100", "--devices=3"): "--devices",
        ("--device-kind=h100", "--devices=0"): "--devices",
        ("--device-kind=tpuv3", "--devices=2"): "tpu_v3",
        ("--device-kind=cpu",): "--devices",
        ("--device-kind=h100", "--devices=2", "--utilization=8"): "--utilization",
        ("--device-kind=h100", "--experiment=align_b7_bass"): "'align_b7_base'",
        ("--device-kind=h100", "--protocol=imagenet"): "imagenet.yaml",
        (
            "--device-kind=v100",
            "--experiment=align_l2_large",
            "--params_override=task.model.image_encoder.rematerialize=false,"
            "runtime.mixed_precision_dtype=float32",
        ): "memory",
        (
            "--device-kind=h100",
            "--devices=4096",
            "--params_override=task.train_data.micro_batch_size=8",
        ): "micro_batch_size",
    }
    usage_errors = [(), ("--device-kind=h100", "--devices=two")]


class TestEvaluate(CommandCase):
    command = "evaluate"
    options = ("--model", "--suite", "--json")
    mistakes = {
        (GOLDEN_MODEL,): "PROTOCOL",
        ("knn",): "--model",
        (GOLDEN_MODEL, "--suite=paper", "knn"): "--suite",
        (GOLDEN_MODEL, "--suite=paper", "--metadata=a.csv"): "--metadata",
        (GOLDEN_MODEL, "retrieval"): "--data",
        (GOLDEN_MODEL, "retrieval", "--data=nowhere"): "nowhere",
        (GOLDEN_MODEL, "retrieval", "--data=coco"): "Download",
        (GOLDEN_MODEL, "retrieval", "--data=pairs.csv", "--html=red.png/a"): "red.png",
        (GOLDEN_MODEL, "retrieval", "--data=pairs.csv", "--cache=red.png"): "red.png",
        (GOLDEN_MODEL, "retrieval", "--data=pairs.csv", "--templates=a"): "--templates",
        (GOLDEN_MODEL, "retrieval", "--data=pairs.csv", "--runtime=x"): "--runtime",
        ("--model=nowhere", "retrieval", "--data=pairs.csv"): "nowhere",
        (GOLDEN_MODEL, "composed", "--text_weight=nan"): "--text-weight",
        (GOLDEN_MODEL, "vtab", "--workers=0"): "--workers",
        (GOLDEN_MODEL, "vtab", "--data=vtab/mnist"): "vtab",
        (GOLDEN_MODEL, "vtab", "--results=red.png"): "red.png",
        (GOLDEN_MODEL, "vtab", "--params_override=sweep.trails=1"): "'trials'",
    }
    usage_errors = [("xyzzy", "--model=m"), ("retreival",), ("knn", "--templets=a")]

    def write(self, folder):
        write_table(folder)


class TestExport(CommandCase):
    command = "export"
    options = ("--model", "--to", "--evaluation")
    mistakes = {
        ("--to=new",): "--model",
        ("--model=m",): "--to",
        ("--model=nowhere", "--to=new"): "nowhere",
        ("--model=empty", "--to=new"): "config.json",
        ("--model=m", "--to=new", "--quantize=int8"): "--quantize",
        (GOLDEN_MODEL, "--to=new", "litert", "--quantize=int8"): "dynamic-int8",
        (f"--model={GOLDEN}", "--to=."): "--to",
        ("--model=m", "--to=hf://user/model"): "--to",
    }
    usage_errors = [("--model=m", "--to=d", "--quantize=int4"), ("jpeg",)]

    def write(self, folder):
        (folder / "empty").mkdir()


class TestIndex(CommandCase):
    command = "index"
    options = ("--index", "--model", "--watch")
    mistakes = {
        ("--index=new",): "SOURCE",
        ("--index=",): "--index",
        ("nowhere", "--index=new"): "SOURCE",
        (".", "--index=new", "--model=nowhere"): "nowhere",
        (".", "--index=new", "--dimensions=2"): "--model",
        (".", "--index=new", f"--model={GOLDEN}", "--dimensions=9"): "dimensions",
        ("--watch", "--index=s3://bucket/index"): "--index",
        (".", "--index=new", "--check"): "--check",
    }
    usage_errors = [("--indx=folder",)]

    def write(self, folder):
        write_table(folder)


class TestEmbed(CommandCase):
    command = "embed"
    options = ("--to", "--model", "--column")
    mistakes = {
        ("nowhere", "--to=new"): "nowhere",
        ("pairs.csv", "--to=new", "--column=text"): "text",
        ("pairs.csv", "--to=new", "--model=no_model"): "no_model",
        ("pairs.csv", "--to=s3://bucket/x", "--engine=dask:host:1"): "--to",
    }
    usage_errors = [(), ("pairs.csv", "--to=new", "--rows-per-file=0")]

    def write(self, folder):
        write_table(folder)


class TestServe(CommandCase):
    command = "serve"
    options = ("--index", "--port", "--host")
    mistakes = {
        ("--index=nowhere",): "nowhere",
        ("--index=nowhere", "--token-file=no.txt"): "no.txt",
        ("--index=nowhere", "--runtime=litert"): "--runtime",
    }
    usage_errors = [("--port=-1",), ("--indx=folder",)]


class TestSearch(CommandCase):
    command = "search"
    options = ("--index", "--model_dir", "--where")
    mistakes = {
        ("--index=nowhere",): "--image",
        ("--index=nowhere", "red"): "nowhere",
        ("--index=nowhere", " "): "TEXT",
        ("--index=nowhere", "red", "--plus-image=a.png"): "--plus-image",
        ("--model_dir=nowhere", "red"): "--model_dir",
        ("--model_dir=hdfs://host:9000/run", "red"): "s3://",
    }
    usage_errors = [
        ("--model_dir=run", "--index=x", "red"),
        ("red", "--text-weight=0"),
        ("red", "-k", "0"),
        ("red", "--indx=folder"),
    ]


class TestTag(CommandCase):
    command = "tag"
    options = ("--labels", "--index", "--thresholds")
    mistakes = {
        ("--labels=labels.txt",): "FOLDER",
        (".", "--labels=no.txt"): "no.txt",
        (".", "--labels=twice.txt"): "repeated",
        (".", "--labels=labels.txt", "--out=tags.txt"): ".csv",
        (".", "--labels=labels.txt", "--out="): "--out",
        (".", "--labels=labels.txt", "--thresholds=wrong.json"): "--thresholds",
        (
            "--labels=labels.txt",
            "--calibrate=no.csv",
            f"--model={GOLDEN}",
        ): "no.csv",
    }
    usage_errors = [(), (".",)]

    def write(self, folder):
        (folder / "labels.txt").write_text("red\nblue\n")
        (folder / "twice.txt").write_text("red\nred\n")
        (folder / "wrong.json").write_text(json.dumps({}))


class TestMcp(CommandCase):
    command = "mcp"
    options = ("--index", "--model")
    mistakes = {("--index=nowhere", "--runtime=litert"): "--runtime"}
    usage_errors = [("my_index",), ("--indx=folder",)]


class TestPush(CommandCase):
    command = "push"
    options = ("--private", "--exports", "--license")
    mistakes = {
        ("nowhere", "user/model"): "MODEL",
        (str(GOLDEN), "model"): "hf://user/model",
    }
    usage_errors = [(), ("m", "user/m", "--exports", "jpeg")]


class TestConvert(CommandCase):
    command = "convert"
    options = ("--to",)
    mistakes = {("hf", "empty", "--to=."): "--to"}
    usage_errors = [(), ("torch", "a", "--to=b")]

    def write(self, folder):
        (folder / "empty").mkdir()


def test_each_command_has_a_case():
    cases = {case.command for case in CommandCase.__subclasses__()}
    assert cases == set(COMMANDS)
