"""How VTAB derives the classes of its structured tasks from annotations.

The thresholds and groupings are those of the benchmark's public code
(github.com/google-research/task_adaptation), Zhai et al. 2019.
"""

import numpy as np

# Car, van and truck in KITTI's order of types.
_VEHICLES = 3
_NO_VEHICLE = 1000.0
_CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
_FEWEST_OBJECTS, _MOST_OBJECTS = 3, 10


def interval(value, thresholds):
    """Returns the number of the interval that a value lies in.

    Args:
        value: float.
        thresholds: sequence of increasing floats; each opens an interval, whose
            lower end isn't part of it.

    Returns:
        int ≥ 0; what lies below the first threshold counts in the first interval.

    Example:

    >>> [interval(value, (0.0, 8.0, 20.0)) for value in (8.0, 8.1, 99.0)]
    [0, 1, 2]
    """
    return max(int(np.searchsorted(thresholds, value, side="left")) - 1, 0)


def clevr_closest_object_distance(objects):
    """Depth of the nearest object, in 6 intervals."""
    depths = objects["pixel_coords"][:, 2]
    nearest = float(np.min(depths, initial=_CLEVR_DISTANCES[-1]))
    return min(interval(nearest, _CLEVR_DISTANCES), len(_CLEVR_DISTANCES) - 2)


def clevr_count_all(objects):
    """Number of objects, 3 to 10."""
    count = len(objects["size"])
    return min(max(count, _FEWEST_OBJECTS), _MOST_OBJECTS) - _FEWEST_OBJECTS


def kitti_closest_vehicle_distance(objects):
    """Distance ahead of the nearest car, van or truck: 3 intervals, or none."""
    is_vehicle = np.asarray(objects["type"]) < _VEHICLES
    distances = np.asarray(objects["location"])[:, 2][is_vehicle]
    return interval(float(np.min(distances, initial=_NO_VEHICLE)), _KITTI_DISTANCES)


def dsprites_x_position(position):
    """32 positions, two by two."""
    return int(position) * 16 // 32


def dsprites_orientation(angle):
    """40 angles in 16 groups of two or three."""
    return int(angle) * 16 // 40
