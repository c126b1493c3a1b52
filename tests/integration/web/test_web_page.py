"""The page itself, in a headless Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.frame import State

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

LIVE = "body[data-state=live]:not(.stale)"
WAIT_MS = 30_000
CLOSE = 6  # levels of grey that JPEG and blending may be off


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # As root, as in most containers, Chromium's own sandbox does not start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, run):
    """``open_page(**context options)``: the page of ``run``. No test may leave a complaint in the console."""
    contexts, complaints, hosts = [], [], set()

    def complain(text):
        if "willReadFrequently" not in text:  # about these tests reading pixels
            complaints.append(text)

    def open_page(**options):
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complain(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(run.sink.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert hosts == {f"127.0.0.1:{run.port}"}


def pixel(page, canvas, column):
    """RGB in the middle of the third ``column`` of a canvas."""
    return page.evaluate(
        """([id, column]) => {
            const canvas = document.getElementById(id);
            const x = (column + 0.5) / 3 * canvas.width, y = canvas.height / 2;
            return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)];
        }""",
        [canvas, column],
    )


def until(page, canvas, column, rgb):
    """Wait until a canvas shows a colour."""
    for _ in range(WAIT_MS // 50):
        shown = pixel(page, canvas, column)
        if np.abs(np.subtract(shown, rgb)).max() <= CLOSE:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{canvas} shows {shown} in column {column}, not {rgb}")


def blend(run, column, grey, opacity):
    return [opacity * c + (1 - opacity) * grey for c in run.palette[column]]


def test_overlay_mask_and_source_are_shown_and_change(open_page, run):
    page = open_page()
    for grey in (40, 200):
        run.give(image=np.full((90, 160, 3), grey, np.uint8))
        for column in range(3):
            until(page, "overlay", column, blend(run, column, grey, 0.5))
            until(page, "mask", column, run.palette[column])
            until(page, "frame-alone", column, [grey] * 3)


def test_a_class_is_switched_off_and_on(open_page, run):
    page = open_page()
    run.give(image=np.full((90, 160, 3), 100, np.uint8))
    page.get_by_label("sky").uncheck()
    until(page, "overlay", 1, [100] * 3)
    until(page, "mask", 1, [0] * 3)
    until(page, "overlay", 2, blend(run, 2, 100, 0.5))
    run.give(image=np.full((90, 160, 3), 180, np.uint8))
    until(page, "overlay", 1, [180] * 3)
    page.get_by_role("button", name="None").click()
    until(page, "overlay", 2, [180] * 3)
    page.get_by_role("button", name="All").click()
    until(page, "overlay", 1, blend(run, 1, 180, 0.5))


def test_opacity_also_of_a_picture_that_stands_still(open_page, run):
    page = open_page()
    run.give(image=np.full((90, 160, 3), 100, np.uint8))
    until(page, "overlay", 0, blend(run, 0, 100, 0.5))
    for percent in (0, 20, 100):
        page.get_by_label("Opacity").fill(str(percent))
        until(page, "overlay", 0, blend(run, 0, 100, percent / 100))


def test_figures_are_shown_and_drawn(open_page, run):
    run.report.dropped = 1234
    with run.giving():
        page = open_page()
        page.locator("#latency path[d*='L']").first.wait_for(state="attached")
        assert page.locator("#latency b").first.inner_text() == "15.0"
        assert float(page.locator("#age b").first.inner_text()) > 19
        assert float(page.locator("#fps b").inner_text()) > 1
        tiles = page.locator("#tiles").inner_text()
        assert "Dropped\n1,234" in tiles
        assert "CPU" in tiles
        assert page.locator("#source").inner_text() == "rtsp://camera/1"
        assert page.locator("#state").inner_text().lower() == "live"
        assert page.locator("#notice").is_hidden()


@pytest.mark.parametrize("state", [State.STALLED, State.RECONNECTING, State.ENDED, State.FAILED])
def test_a_source_that_is_not_live_does_not_look_so(open_page, run, state):
    page = open_page()
    with run.giving():
        page.wait_for_selector(LIVE)
    run.camera.enter(state, "the camera is silent")
    page.wait_for_selector("body.stale")
    assert "grayscale" in page.evaluate("getComputedStyle(document.getElementById('overlay')).filter")
    assert page.locator("#state").inner_text().lower() == state.value
    assert "the camera is silent" in page.locator("#notice").inner_text()
    assert "s ago" in page.locator("#notice").inner_text()
    run.camera.enter(State.LIVE)
    with run.giving():
        page.wait_for_selector(LIVE)
        assert page.locator("#notice").is_hidden()


def test_a_picture_that_grows_old_while_the_state_is_live_does_not_look_live(open_page, run):
    page = open_page()
    with run.giving():
        page.wait_for_selector(LIVE)
    page.wait_for_selector("body.stale")
    assert "Old picture" in page.locator("#notice").inner_text()


def test_an_invalid_result_says_so(open_page, run):
    page = open_page()
    run.give(valid=False)
    page.get_by_text("No valid mask").wait_for()


def test_snapshot_and_record_give_files(open_page, run, tmp_path):
    with run.giving():
        page = open_page(accept_downloads=True)
        page.locator("#snapshot:enabled").wait_for()
        with page.expect_download() as snapshot:
            page.locator("#snapshot").click()
        page.locator("#record").click()
        assert page.locator("#record").get_attribute("aria-pressed") == "true"
        page.wait_for_timeout(1200)
        with page.expect_download() as recording:
            page.locator("#record").click()
        picture = cv2.imread(saved(snapshot, tmp_path))
        assert picture.shape == (90, 160, 3)
        assert picture[:, 133, 0].mean() > picture[:, 27, 0].mean() + 50  # blue is on the right
        video = cv2.VideoCapture(saved(recording, tmp_path))
        frames = 0
        while video.grab():
            frames += 1
        assert frames > 5


def saved(download, folder: Path) -> str:
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return str(path)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_fits_a_phone(open_page, run, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme)
    run.give()
    page.get_by_label("sky").tap()
    until(page, "mask", 1, [0] * 3)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for selector in ("#snapshot", "#record", "#classes label"):
        assert page.locator(selector).first.bounding_box()["height"] >= 44
    overlay = page.locator("#overlay").bounding_box()
    assert overlay["width"] > 300
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) is (scheme == "dark")


def test_the_page_says_when_the_run_is_gone_and_finds_the_next_one(browser, run):
    from edgeseg.web import WebSink
    from edgeseg.web.address import Address

    with browser.new_context() as context:
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(run.sink.url)
        with run.giving():
            page.wait_for_selector(LIVE)
        run.sink.close()
        page.get_by_text("No contact", exact=True).wait_for()
        assert page.locator("body.stale").count() == 1
        with WebSink(Address("127.0.0.1", run.port)) as run.sink:
            run.sink.attach(run.camera, run.report)
            with run.giving():
                page.wait_for_selector(LIVE)


def test_a_locked_page_opens_with_its_token(browser, locked):
    with browser.new_context() as context:
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(locked.sink.url.partition("?")[0])
        page.get_by_label("Token").fill(locked.sink.token)
        page.get_by_role("button", name="Open").click()
        locked.give()
        page.locator("#snapshot:enabled").wait_for()
        assert locked.sink.token not in page.url
