"""Measures the memory of training steps and prints it as JSON in bytes.

usage: memory_script.py step OVERRIDES
           Trains a model for two steps.
       memory_script.py gradients OVERRIDES
           Computes the gradients of a step without an update.
       memory_script.py classifier OVERRIDES RECIPE
           Trains a classifier with the image encoder and ten classes.
       memory_script.py loss N WIDTH FORM LOSS
           Computes the loss of N pairs with embeddings of length WIDTH.

Each measurement needs a new process, since the peak memory of a process never falls.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, DistillationLoss, SigmoidLoss


def allocated_memory():
    """Returns the allocated bytes without the code, which is loaded on first use."""
    return status_bytes("RssAnon")


def resident_memory():
    return status_bytes("VmRSS")


def peak_memory():
    # `ru_maxrss` would include the memory of the process that started this one.
    return status_bytes("VmHWM")


def status_bytes(name):
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = [line for line in file if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def random_batch(config):
    rows = config.task.train_data.global_batch_size
    size = config.task.model.image_encoder.image_size
    length = config.task.model.text_encoder.sequence_length
    random = np.random.default_rng(0)
    return {
        "images": random.integers(0, 256, (rows, size, size, 3)).astype("uint8"),
        "token_ids": random.integers(5, 50, (rows, length)).astype("int32"),
        "padding_mask": np.ones((rows, length), "int32"),
    }


def measure_step(overrides):
    from align_keras.config import load_config
    from align_keras.runs.model_from_config import build_model, compile_model

    config = load_config(params_override=overrides)
    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
    start = allocated_memory()
    model = build_model(config.task.model)
    compile_model(model, config)
    model.build_optimizer()
    state = allocated_memory() - start
    memory_before = resident_memory()
    batches = tf.data.Dataset.from_tensors(random_batch(config)).repeat(2)
    model.fit(batches, epochs=1, verbose=0)
    return {"state": state, "step": peak_memory() - memory_before}


def measure_gradients(overrides):
    from align_keras.config import load_config
    from align_keras.models.gradients import loss_gradients
    from align_keras.runs.model_from_config import build_model, compile_model

    config = load_config(params_override=overrides)
    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
    model = build_model(config.task.model)
    compile_model(model, config)
    batch = {name: tf.constant(x) for name, x in random_batch(config).items()}
    memory_before = resident_memory()

    @tf.function
    def gradients(batch):
        return loss_gradients(model, batch)

    gradients(batch)
    return {"gradients": peak_memory() - memory_before}


def measure_classifier(overrides, recipe):
    from align_keras.config import load_config, load_recipe
    from align_keras.models import ImageClassifier
    from align_keras.models.image_classifier import encoder_without_projection
    from align_keras.runs.model_from_config import build_image_encoder
    from align_keras.training.classification import FineTuningStage, fine_tune

    recipe = load_recipe("fine_grained", params_override=recipe)
    tower = build_image_encoder(load_config(params_override=overrides).task.model)
    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
    classifier = ImageClassifier(
        encoder_without_projection(tower, True, recipe.rematerialize), 10
    )
    memory_before = resident_memory()
    shape = (recipe.batch_size, recipe.full.train_size, recipe.full.train_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    batches = tf.data.Dataset.from_tensors((images, np.zeros(shape[0], "int32")))
    stage = FineTuningStage(lambda step: batches.repeat(), 2, 0.01, True)
    fine_tune(classifier, [stage])
    return {"step": peak_memory() - memory_before}


def similarity_loss(images, texts, temperature):
    """Returns the similarity loss of a distillation, with a teacher of equal width."""
    loss = DistillationLoss(embedding_weight=0.0, contrastive_weight=0.0)
    return loss(
        images,
        texts,
        temperature,
        teacher_image_embeddings=tf.stop_gradient(tf.reverse(images, [1])),
        teacher_text_embeddings=tf.stop_gradient(texts),
    )


def measure_loss(rows, width, loss):
    @tf.function
    def gradients(images, texts, temperature):
        with tf.GradientTape() as tape:
            tape.watch([images, texts, temperature])
            total = loss(images, texts, temperature)
        return total, tape.gradient(total, [images, texts, temperature])

    def run(rows):
        embeddings = [
            tf.math.l2_normalize(tf.random.normal((rows, width)), axis=1)
            for _ in range(2)
        ]
        memory_before = resident_memory()
        gradients(*embeddings, tf.constant(0.05))
        return memory_before

    run(64)
    memory_before = run(rows)
    input_size = 2 * rows * width * 4
    return {"loss": peak_memory() - memory_before + input_size}


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "step":
        measured = measure_step(*arguments)
    elif kind == "gradients":
        measured = measure_gradients(*arguments)
    elif kind == "classifier":
        measured = measure_classifier(*arguments)
    else:
        rows, width, form, name = arguments
        tile = int(form) if form.isdigit() else {"auto": "auto"}.get(form)
        losses = {"contrastive": ContrastiveLoss, "sigmoid": SigmoidLoss}
        if name == "similarity":
            loss = similarity_loss
        else:
            loss = losses[name](tile_size=tile)
        measured = measure_loss(int(rows), int(width), loss)
    print(json.dumps(measured))
