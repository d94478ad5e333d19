"""The templates of the HTML pages, with the filters that they use."""

import math
import pathlib

import jinja2

from align_keras.reports.thumbnail import thumbnail_uri


def page_template(name, folder=None):
    """Opens a template of this folder, or of another; everything that it prints is
    escaped.

    Pages of another folder may include the parts and the style sheet of this one.
    """
    environment = jinja2.Environment(
        # The folder of this file holds the templates and their style sheet.
        loader=jinja2.FileSystemLoader(
            [*([folder] if folder else []), pathlib.Path(__file__).parent]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, percent=_percent, times=_times, thumbnail=thumbnail_uri
    )
    return environment.get_template(name)


def _number(value):
    """A number as people write it; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def _percent(value, digits=1):
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _times(value):
    if value is None:
        return "–"
    return f"{value:,.0f}×" if value >= 10 else f"{value:.1f}×"
