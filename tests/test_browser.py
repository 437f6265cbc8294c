"""TensorBoard and the HTML report, as a person sees them: in headless Chromium, on two runs of packaged images."""

import contextlib
import csv
import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.repository import ROOT

from convnets.results.leaderboard import build_leaderboard
from convnets.results.page import write_page
from convnets.runs.finding import find_runs
from convnets.runs.run import read_run
from convnets.training.train import train

ARTEFACTS = Path(__file__).parent / "artefacts"  # what a failed test saw
MISSING = [program for program in ("chromium", "chromedriver") if not shutil.which(program)]
MISSING += ["selenium"] if importlib.util.find_spec("selenium") is None else []
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),  # one browser, and one pair of runs
    pytest.mark.skipif(
        bool(MISSING), reason=f"NOT TESTED IN A BROWSER, without {', '.join(MISSING)}: `make browser` installs them"
    ),
]
SECONDS = 40  # until a page must show what it has
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

# TensorBoard's elements live in shadow trees and frames, which neither a selector nor innerText looks into.
COLLECT = """
const visible = node => node.nodeType === 1 && (!node.checkVisibility || node.checkVisibility());
const children = node => node.tagName === 'IFRAME' ? [node.contentDocument?.body].filter(Boolean)
  : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes];
const text = node => node.nodeType === 3 ? node.textContent
  : node.tagName === 'INPUT' && visible(node) ? node.value
  : !visible(node) || ['SCRIPT', 'STYLE', 'TEMPLATE'].includes(node.tagName) ? '' : children(node).map(text).join(' ');
const within = (node, selector) => [
  ...(node.nodeType === 1 && node.matches(selector) ? [node] : []),
  ...children(node).flatMap(child => within(child, selector)),
];
"""


class Page:
    """What a browser shows."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def text(self) -> str:
        return self.browser.execute_script(COLLECT + r"return text(document.body).replace(/\s+/g, ' ')")

    def elements(self, selector: str) -> list[Any]:
        return self.browser.execute_script(COLLECT + "return within(document.body, arguments[0])", selector)

    def count(self, selector: str, condition: str) -> int:
        """How many elements there are for which an expression of `e` holds."""
        script = f"return within(document.body, arguments[0]).filter(e => {condition}).length"
        return self.browser.execute_script(COLLECT + script, selector)

    def wait_for(self, condition: Callable[[], Any], missing: Callable[[], str]) -> None:
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.browser, SECONDS, 0.2, ignored_exceptions=[StaleElementReferenceException])
        with contextlib.suppress(TimeoutException):
            wait.until(lambda _: condition())
            return
        raise AssertionError(missing())

    def shows(self, *words: str) -> str:
        """Wait until all the words are there; return the page's text."""
        seen = ""

        def missing() -> list[str]:
            nonlocal seen
            seen = self.text()
            return [word for word in words if word not in seen]

        self.wait_for(lambda: not missing(), lambda: f"The page does not show {missing()}, but: {seen[:3000]}")
        return seen

    def has(self, number: int, selector: str, condition: str = "true") -> None:
        """Wait until there are so many elements for which an expression of `e` holds."""
        self.wait_for(
            lambda: self.count(selector, condition) >= number,
            lambda: f"{self.count(selector, condition)} of {number} {selector} with {condition}",
        )

    def hover(self, element: Any, x: int, y: int) -> None:
        """Move the mouse to a point, in pixels from the element's centre."""
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).move_to_element_with_offset(element, x, y).perform()


@pytest.fixture(scope="module")
def outputs(compose: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: of sigmoids, and of ReLUs with a holdout, without pictures."""
    folder = tmp_path_factory.mktemp("browser") / "outputs"
    watched = {
        "a": ["model.lr=0.5"],
        "b": ["model.activation=relu", "data.holdout=200", "callbacks.dashboard.images=false"],
    }
    for name, overrides in watched.items():
        small = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=2", "callbacks.progress=null"]
        train(compose(*small, f"run_name={name}", *overrides), folder / "runs" / name)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in (
        "headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1000", "enable-unsafe-swiftshader",
        "disable-background-networking", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    yield browser
    browser.quit()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of what scripts/dashboard.py starts there."""
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py")]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield re.search(r"http://localhost:\d+/", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=20)[1], process.returncode) == ("", 0)


@pytest.fixture(scope="module")
def address(outputs: Path) -> Iterator[str]:
    with serving(outputs.parent) as address:
        yield address


@pytest.fixture
def opened(browser, request):
    """Open an address; where the test then fails, keep what the browser showed."""

    @contextlib.contextmanager
    def opened(address: str) -> Iterator[Page]:
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get(address)
        try:
            yield Page(browser)
        except Exception as error:
            ARTEFACTS.mkdir(exist_ok=True)
            path = ARTEFACTS / f"{request.node.name}.png"
            browser.save_screenshot(str(path))
            error.add_note(f"What the browser showed: {path}")
            raise

    return opened


def rows(outputs: Path, run: str) -> list[dict[str, float]]:
    with (outputs / "runs" / run / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def result(outputs: Path, run: str) -> dict[str, Any]:
    return json.loads((outputs / "runs" / run / "result.json").read_text())


LINE = "path.line"
DRAWN = "e.getAttribute('d') && e.getBoundingClientRect().width > 0"
LOADED = "e.complete && e.naturalWidth > 0"


def in_full(page: Page) -> None:
    """Have the charts show every point, and the tooltips their values: of a curve of two points, one is an outlier."""
    (box,) = (box for box in page.elements("paper-checkbox") if "Ignore outliers" in box.text)
    if box.get_attribute("aria-checked") == "true":  # TensorBoard remembers
        box.click()


def test_scalars_have_curves_with_the_values_of_the_run(opened, address, outputs):
    with opened(f"{address}#scalars&tagFilter=%5E(train%7Cval)%2F&_smoothingWeight=0") as page:
        page.shows("runs/a", "runs/b", "train/loss", "train/accuracy", "val/loss", "val/accuracy")
        page.has(4 * 2, LINE, DRAWN)
        in_full(page)
        page.hover(page.elements("vz-line-chart2")[0], 100, 0)
        last = {run: rows(outputs, run)[-1]["train/accuracy"] for run in "ab"}
        page.shows(*(f"{value:.4g}" for value in last.values()))


def test_every_scalar_is_there(opened, address):
    with opened(f"{address}#scalars") as page:
        text = page.shows("gradient_norm", "weight_norm", "update_ratio", "throughput", "learning_rate", "final")
        assert "images_per_second" in text
        assert "hp_metric" not in text


def test_custom_scalars_show_training_and_validation_in_one_chart(opened, address, outputs):
    with opened(f"{address}#custom_scalars&_smoothingWeight=0") as page:
        page.shows("training", "loss (nats)", "accuracy", "Matches (4)", "runs/a", "runs/b")
        page.has(2 * 4, LINE, DRAWN)
        in_full(page)
        charts = page.elements("vz-line-chart2")
        assert len(charts) == 2
        for chart, quantity in zip(charts, ("loss", "accuracy"), strict=True):
            page.hover(chart, 100, 0)
            values = [rows(outputs, run)[-1][f"{stage}/{quantity}"] for run in "ab" for stage in ("train", "val")]
            page.shows(*(f"{value:.4g}" for value in values), f"val/{quantity} (runs/a)")


def test_images_are_loaded(opened, address):
    with opened(f"{address}#images") as page:
        names = ("probe", "mistakes", "confusion", "filters", "feature_maps", "saturated_sigmoids")
        text = page.shows("step 2", "runs/a", *(f"pictures/{name}" for name in names))
        assert "dead_relus" not in text  # of run b, whose pictures are off
        page.has(len(names), "#main-image-container img", LOADED)


def test_histograms_are_drawn(opened, address):
    with opened(f"{address}#histograms") as page:
        page.shows("activations/1_Sigmoid", "activations/1_ReLU", "activations/scores", "gradients/0_Conv2d")
        page.has(2 * 10, "path.outline", DRAWN)  # of two epochs; a hidden page of cards is not drawn


def test_every_class_has_a_pr_curve(opened, address):
    with opened(f"{address}#pr_curves") as page:
        tags = [re.sub(r"[^\w.-]+", "_", f"{label} {name}") for label, name in enumerate(CLASSES)]
        page.shows("runs/a is at step 3", "runs/b is at step 3", *(f"precision_recall/{tag}" for tag in tags[:-1]))
        page.has(2, LINE, DRAWN)


def test_the_hyperparameters_have_the_final_metrics(opened, address, outputs):
    with opened(f"{address}#hparams") as page:
        final = [result(outputs, run)["metrics"]["val/accuracy"] for run in "ab"]
        text = page.shows("runs/a", "runs/b", "model.lr", "final/val_accuracy", *(f"{value:.5g}" for value in final))
        assert "hp_metric" not in text
        columns = ["init", "model", "model.lr", "optimizer", "seed", "final/val_accuracy"]
        page.has(len(columns), "vaadin-grid-cell-content", f"{columns}.includes(e.textContent.trim())")


def test_the_projector_has_a_picture_for_each_point(opened, address):
    with opened(f"{address}#projector") as page:
        page.shows("Points: 200", "Dimension: 84", "class", "PCA", "Total variance described")
        page.has(1, "#scatter canvas", "e.width > 300")

        def num_greys() -> int:
            seen = Image.open(io.BytesIO(page.browser.get_screenshot_as_png())).convert("L")
            return sum(number > 0 for number in seen.crop((340, 140, 1060, 800)).histogram())  # the points' part

        page.wait_for(lambda: num_greys() > 100, lambda: "The points are no pictures: there are hardly any greys")


def test_the_graph_is_drawn(opened, address):
    with opened(f"{address}#graphs") as page:
        page.shows("Main Graph", "LeNet", "input", "output")
        page.has(3, "g.node", "e.getBoundingClientRect().width > 0")


def test_the_configuration_versions_command_and_layers_are_text(opened, address, outputs):
    with opened(f"{address}#text") as page:
        tags = (f"run/{name}/text_summary" for name in ("configuration", "versions", "command", "layers"))
        facts = (f"{name} {version}" for name, version in result(outputs, "a")["versions"].items())
        page.shows("runs/a", "runs/b", *tags, "activation: sigmoid", "activation: relu", *facts, "Conv2d", "61,706")


@pytest.fixture(scope="module")
def ten_epochs(compose: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ten epochs write, whose pictures and curves are as many on few images as on all."""
    folder = tmp_path_factory.mktemp("ten") / "run"
    train(compose("data=fashion_mnist_sample", "trainer=cpu", "callbacks.progress=null"), folder)
    assert sum(path.stat().st_size for path in folder.glob("events*")) < 15e6
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("num_runs", "seconds"), [(50, 5), (200, 20)])
def test_many_runs_soon_show_their_first_chart(opened, ten_epochs, tmp_path, num_runs, seconds):
    """On a machine that does nothing else. The seconds are from opening the page, and from ticking the runs."""
    for number in range(num_runs):
        shutil.copytree(ten_epochs, tmp_path / "outputs" / "runs" / f"run{number:03}")
    with serving(tmp_path) as address, opened(f"{address}#scalars&tagFilter=%5Eval%2F") as page:
        started = time.perf_counter()
        page.has(num_runs, "paper-checkbox")
        next(b for b in page.elements("paper-button") if b.text.lower() == "toggle all runs").click()
        page.has(1, LINE, DRAWN)
        assert time.perf_counter() - started < seconds


def test_the_report_needs_no_network(opened, outputs):
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), "--html"]
    finished = subprocess.run(command, cwd=outputs.parent, capture_output=True, text=True, check=True)
    path = outputs.parent / re.search(r"^page: (.+)$", finished.stdout, re.MULTILINE)[1]
    with opened(path.as_uri()) as page:
        text = page.shows("Leaderboard of", "A closer look", "Validated on")
        for run in "ab":
            assert f"{result(outputs, run)['metrics']['val/accuracy']:.4f}" in text
        assert len(page.elements("h3")) == 2
        assert len(page.elements("tbody tr")) == 2
        page.has(2 + 2, "figure > svg", "e.getBoundingClientRect().height > 100")  # cost and curves; each recipe's
        page.has(2 * 2, "img", LOADED)  # of each recipe the confusion matrix and mistakes
        assert page.count("img", "!e.alt") == 0
        wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.browser.execute_script(wider) <= 0
        events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert asked
        assert [url[:80] for url in asked if not url.startswith((path.as_uri(), "data:"))] == []


def test_the_report_sorts_and_filters_its_tables_and_fits_a_phone_in_the_dark(opened, browser, make_run, tmp_path):
    sample = ["data=fashion_mnist_sample"]
    for number in range(6):
        make_run(*sample, f"model.lr={0.1 * (number + 1):.1f}", accuracy=0.5 + number / 100)
    make_run(*sample, state="paused", status={"epoch": 3})
    page_path = write_page(build_leaderboard([read_run(path) for path in find_runs([tmp_path])]), "T", tmp_path)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        with opened(page_path.as_uri()) as page:
            page.shows("1 paused", "3/10")
            run = page.browser.execute_script
            assert run("return document.documentElement.scrollWidth") <= 390
            assert run("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
            rows = "document.querySelectorAll('.board tbody tr:not([hidden])')"
            accuracies = f"return [...{rows}].map(e => e.cells[3].textContent)"
            assert run(accuracies) == ["0.5500", "0.5400", "0.5300", "0.5200", "0.5100", "0.5000"]
            page.elements("th button")[3].click()
            assert run(accuracies) == ["0.5000", "0.5100", "0.5200", "0.5300", "0.5400", "0.5500"]
            page.elements("input")[0].send_keys("lenet 0.3")
            assert run(accuracies) == ["0.5200"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
