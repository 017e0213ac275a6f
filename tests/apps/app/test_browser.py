"""The page in a real browser, with real clicks.

``VMT_PICTURES=docs/images`` writes the pictures of docs/howto/app.md there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.apps.app.conftest import CONFIG, FRAMES, SIZE, Grow, write_clip
from tests.conftest import load_tool
from tests.inference.fake_model import BlobModel
from vmt.apps.app import networks as networks_module
from vmt.apps.app.options import AppOptions
from vmt.apps.app.serve import running
from vmt.apps.app.view import COLUMNS
from vmt.inference import package_detector
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.video_file import VideoFile

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vmt-vis[app]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: apt-get install chromium", allow_module_level=True)
expect = playwright.expect
SLOW_MS = 120_000
expect.set_options(timeout=SLOW_MS)
COFFEE = load_tool("make_demo")
#: Where a picture is seen in its element: left, top, and its size over that of its file; its width.
SEEN = """async image => {
  await image.decode();
  const [w, h] = [image.naturalWidth, image.naturalHeight];
  const {width, height} = image.getBoundingClientRect();
  const scale = Math.min(width / w, height / h, 1);
  return [(width - w * scale) / 2, (height - h * scale) / 2, scale, w];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def url(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page whose network finds coloured blobs; masks are sharpened by the shipped weights."""
    patch.setattr(networks_module, "load_segmenter", lambda *_: BlobModel())
    offered = tmp_path_factory.mktemp("offered")
    write_clip(offered / "blobs.mp4")
    options = AppOptions(
        CONFIG,
        "toy.pth",
        port=0,
        videos=offered,
        max_upload_mb=2,
        overrides=("INPUT.MIN_SIZE_TEST", "48"),
    )
    with running(options) as address:
        yield address


class Visitor:
    """A window of the browser with the page, and what a person does with it."""

    def __init__(self, browser: playwright.Browser, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.status = self.page.locator("#status textarea")
        expect(self.status).to_be_visible()

    def upload(self, path: Path) -> None:
        self.page.locator("#upload input[type=file]").set_input_files(str(path))

    def hears(self, text: str | re.Pattern[str]) -> None:
        expect(self.status).to_have_value(
            text if isinstance(text, re.Pattern) else re.compile(re.escape(text))
        )

    def press(self, name: str) -> None:
        self.page.locator(f"#{name}").click()

    def choose(self, group: str, text: str) -> None:
        self.page.locator(f"#{group}").get_by_label(text, exact=True).check()

    def pick(self, name: str, text: str) -> None:
        self.page.locator(f"#{name} input").click()
        self.page.get_by_role("option", name=text).click()

    def write(self, name: str, text: str) -> None:
        self.page.locator(f"#{name} :is(input, textarea)").first.fill(text)

    def go_to(self, frame: int) -> None:
        field = self.page.locator("#frame input[type=number]")
        field.fill(str(frame))
        field.press("Enter")

    def click(self, corners: list[tuple[float, float]], width: int) -> None:
        """Click on places of the frame, in pixels of the video, which is so wide."""
        image = self.page.locator("#picture img")
        for count, (x, y) in enumerate(corners, start=1):
            left, top, scale, wide = image.evaluate(SEEN)
            scale *= wide / width
            image.click(position={"x": left + x * scale, "y": top + y * scale})
            self.hears(f"The drawing has {count} corner")

    def picture(self) -> np.ndarray:
        """What is seen, as the browser got it."""
        source = self.page.locator("#picture img").get_attribute("src")
        coded = self.context.request.get(source).body()
        return cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]

    def saved(self, key: str, name: str, folder: Path) -> Path:
        """Press a button and take the file."""
        self.press(f"save_{key}")
        self.hears(f"{name} is ready.")
        link = self.page.locator(f'#file a[download="{name}"]')
        with self.page.expect_download() as taken:
            link.click()
        path = folder / name
        taken.value.save_as(path)
        return path

    def objects(self, rows: int) -> list[list[str]]:
        cells = self.page.locator("#objects [role=gridcell]")
        expect(cells).to_have_count(rows * len(COLUMNS))
        texts = [cell.strip() for cell in cells.all_inner_texts()]
        return [texts[k : k + len(COLUMNS)] for k in range(0, len(texts), len(COLUMNS))]

    def error(self) -> str:
        toast = self.page.locator(".toast-body").first
        expect(toast).to_be_visible()
        text = toast.inner_text()
        self.page.locator(".toast-close").first.click()
        expect(self.page.locator(".toast-body")).to_have_count(0)
        return text


@pytest.fixture
def visit(browser: playwright.Browser, url: str) -> Iterator[Callable[[], Visitor]]:
    visitors: list[Visitor] = []

    def come() -> Visitor:
        visitors.append(Visitor(browser, url))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()


def shoot(visitor: Visitor, name: str) -> None:
    """A picture for the page of docs, where it is asked for."""
    folder = os.environ.get("VMT_PICTURES")
    if folder:
        path = Path(folder) / f"{name}.jpg"
        visitor.page.screenshot(path=path, type="jpeg", quality=80)


def test_upload_draw_sharpen_and_save(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    """A photograph that ships in scikit-image, under a camera that moves."""
    clip, _ = COFFEE.make_clip(tmp_path)
    visitor = visit()
    visitor.upload(clip)
    visitor.hears("24 frames of 576x384 pixels, 12 per second.")
    visitor.go_to(0)
    x1, y1, x2, _ = next(COFFEE.camera(Image.new("RGB", (600, 400))))
    scale = COFFEE.SIZE[1] / (x2 - x1)
    corners = [(round((x - x1) * scale), round((y - y1) * scale)) for x, y in COFFEE.POLYGON]
    corners = [(x, y) for x, y in corners if 4 < x < 572 and 4 < y < 380]
    visitor.click(corners, COFFEE.SIZE[1])
    shoot(visitor, "app_draw")
    visitor.write("label", "cup")
    visitor.press("add")
    visitor.hears("Object 1, cup, has a new mask.")
    coarse = json.loads(visitor.saved("ytvis", "masks.json", tmp_path).read_text())
    drawn = rle.decode(coarse["annotations"][0]["segmentations"][0])
    expected = rle.decode(rle.from_polygons([[v for xy in corners for v in xy]], *COFFEE.SIZE))
    union = np.count_nonzero(drawn | expected)
    assert np.count_nonzero(drawn & expected) / union > 0.98  # a click lands within a pixel
    before = visitor.picture()
    visitor.press("sharpen")
    visitor.hears("1 mask sharpened, 1 of them changed.")
    shoot(visitor, "app_sharpened")
    after = visitor.picture()
    assert np.abs(before.astype(int) - after).max() > 60
    visitor.choose("shown", "as found or drawn")
    expect(visitor.page.locator("#picture img")).to_be_visible()
    visitor.page.wait_for_timeout(1500)
    assert np.abs(visitor.picture().astype(int) - before).max() < 30

    sharp = json.loads(visitor.saved("ytvis", "masks.json", tmp_path).read_text())
    frames = list(VideoFile(clip))
    refined = MaskRefiner.from_pretrained().refine(np.stack(frames[:1]), drawn[None, None])
    saved = rle.decode(sharp["annotations"][0]["segmentations"][0])
    np.testing.assert_array_equal(saved, refined.masks[0, 0])
    assert sharp["categories"] == [{"id": 1, "name": "cup"}]
    report = visitor.saved("report", "report.html", tmp_path).read_text()
    assert "masks refined" in report
    assert len(list(VideoFile(visitor.saved("overlay", "overlay.mp4", tmp_path)))) == 24
    foreign = [u for u in visitor.requests if not re.match(r"(http://127\.0\.0\.1|data:|blob:)", u)]
    assert not foreign  # nobody else hears of it


def test_find_edit_and_save(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    visitor = visit()
    visitor.press("find")
    assert "There is no video yet" in visitor.error()
    visitor.pick("offer", "blobs.mp4")
    visitor.hears(f"{FRAMES} frames of {SIZE[1]}x{SIZE[0]} pixels")
    visitor.press("find")
    visitor.hears("2 objects found")
    found = visitor.objects(2)
    assert sorted(row[1] for row in found) == ["green", "red"]
    assert all(row[3] == str(FRAMES) for row in found)
    visitor.pick("object", "1 ")
    visitor.write("new_label", "apple")
    visitor.press("rename")
    visitor.hears("Object 1 is called apple.")
    visitor.pick("object", "2 ")
    visitor.press("delete")
    visitor.hears("Object 2 is gone.")
    assert [row[:2] for row in visitor.objects(1)] == [["1", "apple"]]
    visitor.choose("shape", "box")
    visitor.go_to(2)
    visitor.click([(5, 5), (25, 20)], SIZE[1])
    visitor.press("undo")
    visitor.hears("The drawing has 1 corner.")
    visitor.press("add")
    assert "two opposite corners" in visitor.error()
    path = visitor.saved("png", "masks.zip", tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.csv").decode() == "id,label\n1,apple\n"
        for t in range(FRAMES):
            archive.extract(f"masks/{t:05d}.png", tmp_path)
            values = np.array(Image.open(tmp_path / f"masks/{t:05d}.png"))
            assert set(np.unique(values)) == {0, 1}
    coco = json.loads(visitor.saved("coco", "coco.json", tmp_path).read_text())
    assert len(coco["annotations"]) == FRAMES
    frame = list(VideoFile(write_clip(tmp_path / "same.mp4")))[2]
    mask = rle.decode(coco["annotations"][2]["segmentation"])
    assert frame[mask].mean(0).argmax() == (0 if found[0][1] == "red" else 1)


def test_two_visitors_do_not_meet(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    one, two = visit(), visit()
    one.upload(write_clip(tmp_path / "one.mp4", 6))
    one.hears("6 frames")
    assert two.status.input_value() == ""
    assert two.page.locator("#picture img").count() == 0
    two.upload(write_clip(tmp_path / "two.mp4", 4, (64, 96)))
    two.hears("4 frames of 96x64")
    one.press("find")
    two.choose("shape", "box")
    two.click([(10, 10), (40, 40)], 96)
    two.write("label", "mine")
    two.press("add")
    two.hears("Object 1, mine")
    two.press("follow")
    two.hears("4 masks of 1 object.")
    one.hears("2 objects found")
    assert sorted(row[1] for row in one.objects(2)) == ["green", "red"]
    assert [row[1] for row in two.objects(1)] == ["mine"]
    paths = [v.saved("ytvis", "masks.json", tmp_path).read_text() for v in (one, two)]
    assert "mine" not in paths[0]
    content = json.loads(paths[1])
    assert [c["name"] for c in content["categories"]] == ["mine"]
    assert content["videos"][0]["length"] == 4


def test_uploads_that_cannot_be_used(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    visitor = visit()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    visitor.upload(broken)
    text = visitor.error()
    assert "This video: cannot be opened as a video" in text
    assert "/tmp" not in text
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_100_000))
    visitor.page.reload()
    expect(visitor.status).to_be_visible()
    visitor.upload(large)
    assert "size" in visitor.error().lower()
    visitor.page.reload()
    expect(visitor.status).to_be_visible()
    visitor.upload(write_clip(tmp_path / "good.mp4"))
    visitor.hears(f"{FRAMES} frames")


def test_stop(
    visit: Callable[[], Visitor], patch: pytest.MonkeyPatch, tmp_path: Path, grow: Grow
) -> None:
    """Work ends between frames, what is done stays, and the next may begin."""
    patch.setattr(networks_module.Networks, "refiner", lambda self: grow)
    visitor = visit()
    visitor.pick("offer", "blobs.mp4")
    visitor.hears(f"{FRAMES} frames")
    visitor.press("find")
    visitor.hears("2 objects found")
    grow.wait.clear()
    visitor.press("sharpen")
    expect(visitor.page.locator("#status")).to_contain_text("loading the network")
    visitor.press("sharpen")
    assert "still running" in visitor.error()
    visitor.press("stop")
    visitor.page.wait_for_timeout(1000)
    grow.wait.set()
    visitor.hears(f"Stopped after 1 of {FRAMES} frames; what is done stays.")
    assert [row[-1] for row in visitor.objects(2)] == ["1", "1"]
    visitor.press("sharpen")
    visitor.hears(f"{2 * FRAMES} masks sharpened")


def test_who_closes_the_page_leaves_no_files(
    browser: playwright.Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "temporary"
    root.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(root))
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    with running(AppOptions(port=0)) as address:
        (folder,) = root.glob("vmt-app-*")
        visitor = Visitor(browser, address)
        visitor.upload(write_clip(tmp_path / "a.mp4"))
        visitor.hears(f"{FRAMES} frames")
        visitor.press("find")
        assert "vmt app --config-file CONFIG --weights FILE" in visitor.error()
        assert list(folder.glob("*/views/*/frame.jpg"))
        visitor.context.close()
        for _ in range(100):
            if not list(folder.glob("*/views")):
                break
            time.sleep(0.2)
        assert not list(folder.glob("*/views"))
    assert not folder.exists()
