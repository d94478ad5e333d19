"""Ends after the first step of `fit`. compare.py measures the time of the process."""

import os
import pathlib
import sys

import align_keras  # Before TensorFlow, because it enables oneDNN.


def main() -> None:
    """Trains `align_nano` from random weights with images and their file names."""
    import keras

    paths = sys.argv[1:]
    captions = [pathlib.Path(path).stem for path in paths]
    vocabulary = align_keras.learn_vocabulary(captions, size=1000)
    model = align_keras.ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    model.compile()
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: os._exit(0)
    )
    model.fit(paths, captions, batch_size=32, callbacks=[callback])


if __name__ == "__main__":
    main()
