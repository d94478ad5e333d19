"""Experiment trackers, which record the metrics of a run."""

from align_keras.training.trackers.run_trackers import RunTrackers, start_trackers
