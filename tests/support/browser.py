"""A real browser for tests of pages, and a server for pages that ask one."""

import contextlib
import pathlib
import shutil
import socket
import threading

import pytest

PROGRAMS = ("chromium", "chromedriver")


@contextlib.contextmanager
def open_browser():
    """Debian's Chromium without a window; skips the test where it is missing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]}: apt-get install chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    # Without its own sandbox it also runs as root; the pages are ours.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Page(driver)
    finally:
        driver.quit()


class Page:
    """A tab of the browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address, *, width=1100, height=900, dark=False, fragment=""):
        """Opens a file or an address in a window of some size."""
        if isinstance(address, pathlib.Path):
            address = address.as_uri()
        size = {"width": width, "height": height}
        self.command(
            "Emulation.setDeviceMetricsOverride",
            **size,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get("about:blank")  # a new fragment alone would load nothing
        self.driver.get_log("browser")
        self.driver.get(address + fragment)

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        """Text as it is in the page, shown or folded away."""
        return self.run(
            "return document.querySelector(arguments[0]).textContent", selector
        )

    def wait(self, condition, seconds=20):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition())

    def complaints(self):
        """Messages in the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextlib.contextmanager
def serving(app):
    """Serves a Starlette application on a free port; gives its address."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        run = {"sockets": [listener]}
        thread = threading.Thread(target=server.run, kwargs=run, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
