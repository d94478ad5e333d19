"""A record of a WAT file in the format of Common Crawl."""

PAGE = "https://example.org/a/page.html"


def envelope(links, head=None, url=PAGE):
    """Returns a dict, the WAT record of a page with links in its head and body."""
    return {
        "Container": {"Filename": "CC-MAIN-1.warc.gz", "Compressed": True},
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
            "Payload-Metadata": {
                "HTTP-Response-Metadata": {
                    "Headers": {"Content-Type": "text/html"},
                    "HTML-Metadata": {"Head": head or {}, "Links": links},
                }
            },
        },
    }
