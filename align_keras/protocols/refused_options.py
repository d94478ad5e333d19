"""What the command line says of data that can't be had of these data."""

from align_keras.utils.errors import InputError

# Of sets that aren't read as captioned pictures.
_OWN_PROTOCOL = {
    "multi30k": "multi30k",
    "cxc": "cxc_retrieval",
    "simlex999": "simlex",
}


def check_no_own_protocol(request):
    """Raises for a set that another protocol judges."""
    name = request.name
    if name in _OWN_PROTOCOL:
        raise InputError(
            f"--data {name} must be judged by a protocol of its own, received it for "
            f"another; write --protocol {_OWN_PROTOCOL[name]}."
        )


def check_no_table_options(request):
    """Raises for the options of a user's table."""
    for name in ("image_column", "caption_column", "encoding"):
        if getattr(request, name) is not None:
            raise InputError(
                f"--{name} is for a table of yours, received "
                f"{getattr(request, name)!r} with {request.name}; leave it out."
            )


def check_nothing_is_missing(request):
    """Raises for `--allow_missing`, where the pictures aren't files."""
    if request.allow_missing:
        raise InputError(
            f"--allow_missing must be left out for {request.name}, whose corpus holds "
            "its pictures, received it."
        )


def check_no_split(request):
    """Raises for `--split`, where there are none."""
    if request.split is not None:
        raise InputError(
            f"--split must be left out for {request.name}, which has no splits, "
            f"received {request.split!r}."
        )
