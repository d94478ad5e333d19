"""Choices of `train_experiment`, in a module that the command line imports quickly."""

# "train" only trains. "train_and_eval" also measures retrieval. "eval" measures a
# checkpoint. "index" writes the export, the search index and the report of a finished
# run.
MODES = ("train", "eval", "train_and_eval", "index")
CHECKPOINTS = ("latest", "best")
