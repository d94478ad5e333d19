"""Opt-outs that web pages and images declare for robots.

A server declares them in the HTTP header `X-Robots-Tag`, and a page in
`<meta name="robots">`. The rules are those of img2dataset 1.47 with its default
options.
"""

# Drop reason of the pairs of a page or an image that opts out.
OPTED_OUT = "opted out"
# Option (name, value) of a source whose pages and images may opt out.
HONOR_OPT_OUT = ("opt_out", "honor")
# Defaults of img2dataset's option `disallowed_header_directives`.
_DIRECTIVES = frozenset(("noai", "noimageai", "noindex", "noimageindex"))


def has_opt_out(directives: str) -> bool:
    """Returns True if a list of directives has one that opts out.

    Args:
        directives: names with a comma between them, such as the `content` of `<meta
            name="robots">`. Case is ignored.

    Example:

    >>> has_opt_out("nofollow, NoAI"), has_opt_out("nofollow, none")
    (True, False)
    """
    names = (name.strip().lower() for name in directives.split(","))
    return any(name in _DIRECTIVES for name in names)


def header_opts_out(value: str) -> bool:
    """Returns True if a value of the HTTP header `X-Robots-Tag` opts out.

    A value such as `googlebot: noai` is for another robot and does not opt out.

    Example:

    >>> header_opts_out("noai, noimageai"), header_opts_out("googlebot: noai")
    (True, False)
    """
    return ":" not in value and has_opt_out(value)
