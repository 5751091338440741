"""A headless Chromium, Debian's, driven by Playwright; it speaks to nobody but the server under test."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAM = "/usr/bin/chromium"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1280, 800), (390, 844)
MODES = {"light": (DESKTOP, "light"), "dark": (DESKTOP, "dark"), "phone": (PHONE, "light")}


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """
    A page, what it wrote to the console and where it asked.

    Attributes:
        said: every line of the console, and errors that nobody caught.
        asked: every address that was asked for.
    """

    def __init__(self, page: Page, root: str) -> None:
        self.page = page
        self.root = root
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, path: str) -> int:
        """Open a page, and give its status."""
        response = self.page.goto(self.root + path)
        assert response is not None
        return response.status

    def follow(self, place: str) -> None:
        """Click on the first of what leads to another page, and wait until that is whole."""
        with self.page.expect_navigation():
            self.page.locator(place).first.click()

    def texts(self, selector: str) -> list[str]:
        """Give what is written in all such elements."""
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]


@contextmanager
def tab(browser: Browser, root: str, mode: str = "light", *, token: str = "", scripts: bool = True) -> Iterator[Tab]:
    """
    Open a tab for a server.

    Args:
        mode: of `MODES`.
        token: is shown by a cookie, as after signing in.
    """
    (width, height), scheme = MODES[mode]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=scripts,
    )
    context.set_default_timeout(20_000)
    if token:
        context.add_cookies([{"name": "stocktake_token", "value": token, "url": root}])
    try:
        yield Tab(context.new_page(), root)
    finally:
        context.close()
