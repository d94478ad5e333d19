"""A record of a WAT file, as Common Crawl writes them."""

PAGE = "https://example.org/a/page.html"


def envelope(links, head=None, url=PAGE):
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
