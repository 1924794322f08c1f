"""Fetch pages from many sites at once, and from each site only as fast as it allows.

Run it with ``python examples/scrape.py [URL ...]``. Without URLs it starts three small sites on this machine, which
answer 429 to anyone who is too fast.

One call fetches all pages of one site, so the limit of the site holds without any coordination between workers, and
many sites are fetched at the same time. A call that runs twice starts its site again.
"""

import contextlib
import http.server
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from urllib.parse import urlsplit

import pywren

SECONDS_BETWEEN, MOST_BYTES = 0.1, 1_000_000  # between two requests to one site; of one page


def fetch(url, tries=5):
    """Return the size of a page, or why there is none. If the site asks to wait, wait as long as it says."""
    request = urllib.request.Request(url, headers={"User-Agent": "an example of PyWren"})
    while True:
        tries -= 1
        try:
            with urllib.request.urlopen(request, timeout=30) as page:
                return len(page.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (429, 503) or not tries:
                return f"{error.code} {error.reason}"
            asked = error.headers.get("Retry-After", "")
            time.sleep(min(int(asked) if asked.isdecimal() else 1, 60))
        except OSError as error:
            return str(error)


def fetch_site(urls):
    """Fetch the pages of one site, one after the other, and return what became of each."""
    found = []
    for url in urls:
        due = time.monotonic() + SECONDS_BETWEEN
        found.append((url, fetch(url)))
        time.sleep(max(0.0, due - time.monotonic()))
    return found


class StrictSite(http.server.BaseHTTPRequestHandler):
    """A site that answers 429 to requests less than 0.05 s after the last one."""

    def do_GET(self):
        now = time.monotonic()
        early, self.server.due = now < getattr(self.server, "due", 0.0), now + 0.05
        self.send_response(429 if early else 200)
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(b"" if early else self.path.encode() * 100)

    def log_message(self, *arguments):
        pass


with contextlib.ExitStack() as stack:
    urls = sys.argv[1:]
    for _ in range(0 if urls else 3):
        site = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), StrictSite))
        threading.Thread(target=site.serve_forever, daemon=True).start()
        stack.callback(site.shutdown)
        urls += [f"http://127.0.0.1:{site.server_port}/page/{number}" for number in range(8)]
    sites = defaultdict(list)
    for url in urls:
        sites[urlsplit(url).netloc].append(url)
    for found in pywren.default_executor().imap_unordered(fetch_site, sites.values()):
        for url, size in found:
            print(f"{size:>8}  {url}")
