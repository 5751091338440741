"""
Take the pictures of the pages that the documentation shows, anew: `python -m tools.screenshots`.

They are of a made-up fleet, in headless Chromium.
"""

import sys
import tempfile
from pathlib import Path

from tests.servers.browser import MODES, browsing, tab
from tests.servers.serve import secret_of, served
from tests.web.pages.fleet import DOWN_S, fill

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH = 1080
NODE = "/nodes/compute-1-00002"
# Name, mode, address, and how much of the page's beginning is shown, in pixels.
PICTURES = (
    ("pages-fleet.png", "light", "/", 720),
    ("pages-node.png", "dark", NODE, 1060),
    ("pages-fit.png", "light", "/fit?vcpus=4&memory=8G&disk=40G&spec=hw:cpu_policy=dedicated", 980),
    ("pages-phone.png", "phone", "/", 844),
)


def main() -> int:
    """Take them all."""
    with tempfile.TemporaryDirectory(prefix="stocktake-screenshots-") as path:
        directory = Path(path)
        url = f"sqlite:///{directory / 'ledger.db'}"
        fill(directory, url)
        with served(directory, url, service_down_time=DOWN_S) as server, browsing() as browser:
            for name, mode, address, height in PICTURES:
                with tab(browser, server.url, mode, token=secret_of("viewer")) as opened:
                    width = MODES[mode][0][0] if mode == "phone" else WIDTH
                    opened.page.set_viewport_size({"width": width, "height": 800})
                    opened.go(address)
                    if not address.startswith("/fit"):
                        opened.page.get_by_text("live", exact=True).wait_for()
                    opened.page.screenshot(
                        path=IMAGES / name, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height}
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
