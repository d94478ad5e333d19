"""Conversion and comparison of configurations."""

from align_keras.config import ExperimentConfig, changed_keys, load_config
from align_keras.config.fields import changeable_keys, without_queries
from align_keras.utils.addresses import with_query


def test_changed_keys_returns_the_old_and_the_new_value():
    old = load_config()
    new = load_config(params_override="trainer.seed=2,task.evaluation.ks=[1]")
    assert changed_keys(old, old) == {}
    assert changed_keys(old, new) == {
        "task.evaluation.ks": ((1, 5, 10), (1,)),
        "trainer.seed": (0, 2),
    }
    assert changed_keys(new, old)["trainer.seed"] == (2, 0)


def test_marked_options_and_all_options_of_marked_sections_are_changeable():
    keys = set(changeable_keys(ExperimentConfig))
    assert keys >= {
        "trainer.train_steps",
        "trainer.optimizer_config.optimizer.sgd.weight_decay",
        "trainer.optimizer_config.warmup.linear.warmup_steps",
        "task.validation_data.pairs",
    }
    assert not keys & {"trainer.seed", "task.train_data.pairs", "finetune.model"}


def test_query_strings_are_removed_from_all_addresses_of_a_configuration():
    source = {"path": "https://host/a.tar?sig=first", "weight": 2.0}
    config = load_config(
        params_override={
            "task.train_data.source": [source],
            "task.validation_data.pairs": "https://host/t.csv?sig=second",
        }
    )
    public = without_queries(config)
    assert public.task.train_data.source[0].path == "https://host/a.tar"
    assert public.task.validation_data.pairs == "https://host/t.csv"
    assert set(changed_keys(config, public)) == {
        "task.train_data.source",
        "task.validation_data.pairs",
    }
    assert with_query("https://host/t.csv") == "https://host/t.csv?sig=second"
