"""A page of a folder in Chromium, and what it holds when it is at rest."""

import functools
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


def page_at_rest(folder, browser_folder, address="index.html"):
    """Return the elements of a page as text, once its scripts are done.

    Args:
        folder: what the web server serves.
        browser_folder: where the browser keeps its own files.
        address: of the page in the folder.
    """
    handler = functools.partial(_Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000"]
        command += [f"--user-data-dir={browser_folder}", "--dump-dom"]
        command.append(f"http://127.0.0.1:{server.server_port}/{address}")
        page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        server.shutdown()
    return page
