"""Experiment trackers, which record the metrics of a run."""

from align_keras.training.trackers.run_trackers import (
    RunTrackers,
    forget_tracked_runs,
    start_trackers,
)
