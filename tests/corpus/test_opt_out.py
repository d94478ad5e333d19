"""Opt-outs in HTTP headers, compared with img2dataset."""

from align_keras.corpus.opt_out import header_opts_out

# Values of `X-Robots-Tag`, with the result of `img2dataset.downloader.is_disallowed` of
# version 1.47.0 for the default options: no `user_agent_token`, and the
# `disallowed_header_directives` noai, noimageai, noindex and noimageindex.
IMG2DATASET = {
    "noai": True,
    "noimageai": True,
    "noindex": True,
    "noimageindex": True,
    " NoAI ": True,
    "nofollow,noai": True,
    "nofollow, NOIMAGEAI ,noarchive": True,
    "": False,
    ",": False,
    "none": False,
    "all": False,
    "nofollow": False,
    "noai nofollow": False,
    "noaim": False,
    "no ai": False,
    "googlebot: noai": False,
    "googlebot:noai,noindex": False,
    "img2dataset: noai": False,
    ": noai": False,
    "unavailable_after: 25 Jun 2030 15:00:00 PST": False,
    "noai, unavailable_after: 25 Jun 2030 15:00:00 PST": False,
    "max-snippet:20, noai": False,
}


def test_headers_opt_out_as_in_img2dataset():
    assert {value: header_opts_out(value) for value in IMG2DATASET} == IMG2DATASET
