"""The page of the report: what stands in it, and what it does in a real browser that opens it from disk."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.pages.html import script_json

from ...conftest import require
from ..conftest import Sweep

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "</script><script>alert(1)</script>",
    "'; alert(1); //",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
)

CURVE_MARKERS = ".curve g[data-label] path[transform]"

pytestmark = pytest.mark.slow  # whole reports, most of them opened in a browser


def built(out: Path) -> str:
    return build_report(out, mlflow=False).html.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open not in ("script", "style"):
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the default sweep, which no test changes."""
    return build_report(Sweep(tmp_path_factory.mktemp("default")).default().out, mlflow=False).html


# What stands in the page


def test_the_default_sweep_has_its_verdicts_and_all_its_numbers(sweep):
    text = built(sweep.default().out)
    words = " ".join(" ".join(Elements(text).words).split())
    assert "So far, with 1 of 12 cells unfinished: at NFE 1, no configuration is significantly better than all" in words
    assert "12 cells (10 finished, 1 diverged, 1 unfinished)" in words
    assert "the loss was not finite at 640000 images" in words
    assert "Small scale:" in words
    assert "Evidence 12 cells, 4 configurations, 3 seeds Versions python 3.11.9 Commits abc123" in words
    assert "Hardware Example CPU (2 cores)" in words


def test_the_same_records_give_the_same_bytes(sweep, tmp_path):
    first = built(sweep.default().out)
    assert built(sweep.out) == first
    moved = tmp_path / "elsewhere"
    sweep.out.rename(moved)
    assert built(moved) == first
    assert str(tmp_path) not in first


def test_nothing_is_asked_of_the_network(sweep):
    page = Elements(built(sweep.default().out))
    for tag, attributes in page.found:
        for name in ("src", "srcset", "data", "poster", "action", "background"):
            assert str(attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    for link in page.of("a"):
        assert not re.match(r"(?i)[a-z]+:|//", str(link["href"]))
    assert [link["href"] for link in page.of("link")] == ["data:,"]
    style = built(sweep.out).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_links_lead_to_files_and_places_that_are_there(sweep):
    page = Elements(built(sweep.default().out))
    ids = {attributes["id"] for _, attributes in page.found if "id" in attributes}
    links = {str(link["href"]) for link in page.of("a")}
    assert len([link for link in links if link.endswith("records.jsonl")]) == 12
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (sweep.out / urllib.parse.unquote(link)).is_file(), link


def test_ids_are_unique_over_benchmarks(sweep):
    sweep.cell("ect", 0)
    sweep.cell("ect", 0, benchmark="toy2d", metrics=("w2_toy2d",), shape=(50, 2))
    ids = [attributes["id"] for _, attributes in Elements(built(sweep.out)).found if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_become_markup(sweep, name):
    harmless, hostile = sweep.out / "a", sweep.out / "b"
    for out, text in ((harmless, "harmless"), (hostile, name)):
        sweep.out = out
        for seed in range(2):
            sweep.cell("ect", seed)
            sweep.cell("ect", seed, variant=text, settings={"train.lr": 2})
            sweep.cell("ict", seed, state="failed", error=text)
    plain, tried = Elements(built(harmless)), Elements(built(hostile))
    assert [tag for tag, _ in tried.found] == [tag for tag, _ in plain.found]
    assert all(not key.startswith("on") for _, attributes in tried.found for key in attributes)
    assert any(name in words for words in tried.words)


def test_json_in_a_script_cannot_end_it():
    value = {"</script><!--": ["\u2028", "&amp;", "<script>"]}
    text = str(script_json(value))
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_only_the_page_s_own_script_may_run(sweep):
    text = built(sweep.cell("ect", 0).parents[2])
    policy = next(m for m in Elements(text).of("meta") if m.get("http-equiv") == "Content-Security-Policy")["content"]
    assert "default-src 'none'" in str(policy)
    assert re.search(r"script-src 'sha256-[\w+/=]+'(;|$)", str(policy))


def test_a_missing_page_is_made_again(sweep):
    paths = build_report(sweep.cell("ect", 0).parents[2], mlflow=False)
    assert report_is_current(sweep.out, mlflow=False)
    paths.html.unlink()
    assert not report_is_current(sweep.out, mlflow=False)


def test_a_sweep_without_a_finished_cell_has_a_page(sweep):
    sweep.cell("ect", 0, state="queued")
    assert "nothing to rank" in built(sweep.out)


def test_samples_have_at_most_a_modest_size(sweep):
    for method in ("ict", "ect", "sct", "vct"):
        sweep.cell(method, 0, shape=(64, 3, 64, 64))
    pictures = [image for image in Elements(built(sweep.out)).of("img") if image.get("data-nfe")]
    assert len(pictures) == 10
    assert sum(len(str(image["src"])) for image in pictures) < 5e6


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    require(CHROMIUM.exists(), "Chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root, as in many containers, has no sandbox.
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, sweep) -> Iterator[Any]:
    """Opens the report of a sweep from disk; whatever it complains of or asks of the network fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))

    def open_page(path: Path | None = None) -> Any:
        page.goto((path or build_report(sweep.out, mlflow=False).html).as_uri())
        return page

    yield open_page
    context.close()
    assert complaints == []


def column(page: Any, place: int) -> list[str]:
    """The texts of a column of the results, from the rows that are shown."""
    return page.locator(f"table.results tbody tr:visible td:nth-child({place})").all_inner_texts()


def choose(page: Any, kind: str, value: str) -> None:
    page.locator(f".filters [data-filter={kind}]").first.select_option(value)


def test_columns_sort_both_ways_by_mouse_and_keyboard(sweep, opened):
    page = opened_with_levels(sweep, opened)
    header = page.locator("table.results th", has=page.get_by_role("button", name="value", exact=True))
    assert header.get_attribute("aria-sort") is None
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, 2) == ["ect v1", "sct v1", "vct v1", "ict v1"]  # 9.5 before 30, and no value last
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 2) == ["vct v1", "sct v1", "ect v1", "ict v1"]
    page.get_by_role("button", name="method", exact=True).click()
    assert column(page, 2) == ["ect v1", "ict v1", "sct v1", "vct v1"]
    assert page.locator("table.results th[aria-sort]").count() == 1


def opened_with_levels(sweep: Any, opened: Any) -> Any:
    for method, level in (("ect", 9.5), ("sct", 30.0), ("vct", 111.0)):
        for seed in range(2):
            sweep.cell(method, seed, level=level + seed)
    sweep.cell("ict", 0, state="running")
    return opened()


def test_rows_are_filtered(sweep, opened):
    for seed in range(2):
        sweep.cell("ect", seed)
        for method, rate in (("ect", 2), ("vct", 2), ("vct", 3)):
            sweep.cell(method, seed, variant=f"train.lr={rate}", settings={"train.lr": rate})
    page = opened()
    count = page.locator(".filters .count")
    assert count.inner_text() == "4 of 24 rows"  # the question fixed in advance: the first metric at NFE 1
    choose(page, "nfe", "")
    assert count.inner_text() == "8 of 24 rows"
    choose(page, "metric", "kd_digits_2k")
    assert set(column(page, 5)) == {"kd_digits_2k ↓"}
    choose(page, "method", "ect")
    assert set(column(page, 2)) == {"ect v1"}
    choose(page, "variant", "(defaults)")
    assert column(page, 3) == ["", ""]
    assert column(page, 4) == ["1", "2"]
    for kind in ("method", "metric", "variant"):
        choose(page, kind, "")
    page.locator("[data-filter=text]").fill("LR=2 ect")
    assert set(column(page, 3)) == {"train.lr=2"}
    assert count.inner_text() == "6 of 24 rows"
    assert not page.get_by_role("button", name="Clear the filters").is_visible()
    page.locator("[data-filter=text]").fill("no such thing")
    assert count.inner_text() == "0 of 24 rows"
    page.get_by_role("button", name="Clear the filters").click()
    assert count.inner_text() == "24 of 24 rows"


def test_toggles_take_configurations_out_of_plots_and_samples(default, opened):
    page = opened(default)
    lines = page.locator(".curve g[data-label]")
    assert sorted(line.get_attribute("data-label") for line in lines.all()) == ["ect", "ict", "sct", "vct"]
    assert page.locator(".forest g[data-label]").count() == 3
    page.get_by_role("checkbox", name="ect").uncheck()
    assert sorted(line.get_attribute("data-label") for line in lines.all()) == ["ict", "sct", "vct"]
    assert page.locator(".forest g[data-label]").count() == 2
    assert "ect seed 0" not in page.locator(".gallery figure:visible figcaption").all_inner_texts()
    page.get_by_role("button", name="none", exact=True).click()
    assert lines.count() == 0
    assert page.locator(".curve").inner_text().startswith("Nothing to draw")
    page.get_by_role("button", name="all", exact=True).click()
    assert lines.count() == 4


def test_plots_follow_their_axes(default, opened):
    page = opened(default)
    first = page.locator(".curve svg").inner_html()
    seen = {first}
    for kind, said in (("hours", "device-hours of training"), ("tflop", "TFLOP of training"), ("nfe", "NFE: network")):
        page.locator("[data-axis=x]").select_option(kind)
        assert said in page.locator(".curve svg").text_content()
        seen.add(page.locator(".curve svg").inner_html())
    places = [row.evaluate("path => path.transform.baseVal[0].matrix.e") for row in page.locator(CURVE_MARKERS).all()]
    assert len(set(places)) == 8  # side by side: no interval hides another
    page.locator("[data-axis=x]").select_option("images")
    page.locator("[data-axis=log]").uncheck()
    seen.add(page.locator(".curve svg").inner_html())
    page.locator("[data-axis=nfe]").select_option("2")
    seen.add(page.locator(".curve svg").inner_html())
    page.locator("[data-axis=metric]").select_option("classes_digits_2k")
    assert "(higher is better)" in page.locator(".curve svg").text_content()
    seen.add(page.locator(".curve svg").inner_html())
    assert len(seen) == 7
    assert "NaN" not in "".join(seen)
    assert "Infinity" not in "".join(seen)


def test_a_seed_that_diverged_is_drawn_by_itself(default, opened):
    page = opened(default)
    assert page.locator(".curve title", has_text="ict: a seed that diverged").count() == 1


def test_the_slider_changes_the_samples(default, opened):
    page = opened(default)
    slider = page.get_by_role("slider")
    shown = page.locator(".gallery figure[data-at='0'] img:visible")
    assert shown.get_attribute("data-nfe") == "1"
    before = shown.get_attribute("src")
    slider.press("ArrowRight")
    assert page.locator("output.nfe").inner_text() == "NFE 2"
    assert slider.get_attribute("aria-valuetext") == "NFE 2"
    assert shown.get_attribute("data-nfe") == "2"
    assert shown.get_attribute("src") != before
    assert page.locator(".gallery img:visible").count() == 5  # four methods and the real data
    assert page.locator(".gallery img:visible").last.evaluate("image => image.naturalWidth") == 6 * 9
    slider.press("ArrowLeft")
    assert shown.get_attribute("src") == before


def test_the_same_latent_is_framed_everywhere(default, opened):
    page = opened(default)
    page.get_by_role("spinbutton", name="Latent").fill("8")
    frames = page.locator(".gallery .latent:visible")
    assert frames.count() == 4  # not in the real data
    assert len({frame.get_attribute("style") for frame in frames.all()}) == 1
    assert frames.first.evaluate("frame => frame.style.left").startswith("16.6667")  # the second of the second row
    page.get_by_role("spinbutton", name="Latent").fill("37")
    assert frames.count() == 0


def test_points_are_drawn_as_points(sweep, opened):
    for method in ("ect", "vct"):
        sweep.cell(method, 0, benchmark="toy2d", metrics=("w2_toy2d",), shape=(50, 2))
    page = opened()
    assert page.locator(".gallery svg:visible").count() == 3
    path = page.locator(".gallery svg:visible path").last.get_attribute("d")
    assert path.count("M") == 50


def test_a_number_leads_to_its_seeds_and_these_to_their_rows(default, opened):
    page = opened(default)
    link = page.locator("table.results tbody tr:visible td.value a").first
    target = page.locator(str(link.get_attribute("href")))
    assert target.get_attribute("open") is None
    link.click()
    page.wait_for_function("document.querySelector('details:target').open")
    assert target.locator("tbody tr").count() == 3
    rows = target.get_by_role("link", name="rows").first
    with page.expect_navigation():
        rows.click()
    assert page.url.endswith("/records.jsonl")
    assert json.loads(page.locator("pre").inner_text().splitlines()[0])["metric"] == "fd_digits_2k"


def test_ablations_are_parts_of_the_page(sweep, opened):
    values = {1: (30, 31, 33), 3: (24, 25.5, 26), 10: (40, 42, 43)}
    sweep.sweep("vct", "method.coupling.kl_weight", values, default=3)
    page = opened()
    part = page.locator("details.part", has_text="method.coupling.kl_weight of vct v1 on digits")
    part.locator("summary").first.click()
    assert part.get_by_role("cell", name="3 (default)").first.is_visible()
    assert part.locator("img").count() == 2
    assert part.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    anchors = part.locator("tbody a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert len(set(anchors)) == 3


def test_learned_couplings_are_a_part_of_the_page(sweep, opened):
    law = {"mean": np.full((16, 1, 8, 8), -0.5, np.float32), "std": np.full((16, 1, 8, 8), 0.25, np.float32)}
    for seed in range(2):
        folder = sweep.cell("vct", seed, penalty=0.5)
        kl = np.full(16, 2.0 + seed, np.float32)
        np.savez(folder / "samples" / "posterior.npz", x=np.zeros((16, 1, 8, 8), np.uint8), kl=kl, **law)
    values = ["2.50 ± 6.35 (n=2)", "0.500 ± 0.000 (n=2)", "0.250 ± 0.000 (n=2)"]
    page = opened()
    assert page.get_by_role("heading", name="Learned couplings").is_visible()
    table = page.get_by_role("region", name="Noise posteriors at the end of training")
    assert table.locator("tbody td").all_inner_texts() == ["vct", *values]
    for kind in ("posterior", "kl"):
        picture = page.locator(f"img[alt='digits: {kind}']")
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(sweep, opened, width, scheme):
    for method in ("ect", "vct"):
        for seed in range(2):
            sweep.cell(method, seed, error="x" * 300)
            sweep.cell(method, seed, variant="method.coupling.kl_weight=3, train.lr=2", settings={"train.lr": 2})
    page = opened()
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Of the plots no text may lie on another or outside.
    for figure in page.locator(".chart svg").all():
        boxes = figure.locator("text").evaluate_all(
            "nodes => nodes.map(n => n.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
        )
        edges = np.array(boxes)
        assert (edges[:, 0] >= 0).all()
        assert (edges[:, 2] <= width).all()
        for place, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[place + 1 :]:
                apart = right <= other[0] or other[2] <= left or bottom <= other[1] + 2 or other[3] <= top + 2
                assert apart, (boxes[place], other)


def test_a_phone_shows_rank_method_and_value(sweep, opened):
    variant = "method.coupling.encoder_variance=fixed:0.09, method.coupling.kl_weight=0.3"
    for seed in range(2):
        sweep.cell("vct", seed, level=1234.0 + 300 * seed)
        sweep.cell("vct", seed, variant=variant)
    page = opened()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for place, text in ((1, "1"), (2, "encoder_variance=fixed:0.09, kl_weight=0.3"), (6, "±")):
        cell = page.locator(f"table.results tbody tr:visible td:nth-child({place})").first
        assert text in " ".join(cell.inner_text().split())
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    table = page.locator(".wide", has=page.locator("table.results"))
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")
    assert "gradient" in table.evaluate("box => getComputedStyle(box).backgroundImage")  # the shadow that says so


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_run_nothing(sweep, opened, name):
    for seed in range(2):
        sweep.cell("ect", seed)
        sweep.cell("ect", seed, variant=name, settings={"train.lr": 2})
    page = opened()
    page.get_by_role("button", name="none", exact=True).click()
    page.get_by_role("button", name="all", exact=True).click()
    assert page.locator(".toggles .list span").last.inner_text().startswith("ect")
    assert page.evaluate("document.images.length") == page.locator("img[src^='data:']").count()


def test_the_page_reads_without_its_script(browser, default):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(default.as_uri())
    assert page.locator("table.results tbody tr:visible").count() == 24
    assert page.locator(".filters").is_hidden()
    assert page.locator(".charts").is_hidden()
    assert page.locator(".gallery img:visible").count() == 5
    context.close()
