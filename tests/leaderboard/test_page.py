"""The page: one file that needs no network, tested in a real browser where one is installed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.page import without_images
from iqarena.bench.leaderboard.render import check, render
from iqarena.bench.results.store import Records
from tests.support.board_records import BAD, CLEAN, GOOD, MOS, NOISE, WEAK, put

EVIL = "jpeg[note=</script><b>&x]"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two sizes of ε, a row without a rank, and a name that contains markup."""
    records = Records(tmp_path_factory.mktemp("board") / "results")
    records.prepare()
    for eps in (2 / 255, 4 / 255):
        for setting in ("oblivious", "adaptive"):
            for model, adv in {"good": GOOD, "weak": WEAK, "bad": BAD}.items():
                put(records, adv, model=model, setting=setting, eps=eps, kind="none")
                put(records, MOS + 0.3 * NOISE[4], model=model, setting=setting, eps=eps, attack="r", objective="reflect")
            put(records, CLEAN, model="good", setting=setting, eps=eps, attack="random-noise")
    put(records, WEAK, model="good", defense=EVIL, kind="purification")
    put(records, BAD, model="bad", attack="pgd", eps=2 / 255, setting="adaptive", kind="none", kept=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *_: [])
        render(records, records.folder.parent)
    return records.folder


@pytest.fixture(scope="module")
def text(site: Path) -> str:
    return (site / "site/index.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    assert len(text.encode()) < 5 * 2**20
    assert "default-src 'none'" in text
    assert not re.search(r"""<(?:script|img|link|iframe|source)[^>]+(?:src|href)=["'](?!data:)""", text)
    assert "@import" not in text
    assert "url(" not in text


def test_text_of_plugins_ends_no_script(text: str) -> None:
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    names = {row["defense"] for row in json.loads(script)["tracks"][0]["rows"]}
    assert names == {"none", EVIL}
    assert text.count("</script>") == 3


def test_the_page_holds_what_the_records_say(text: str) -> None:
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(script)
    assert [track["title"] for track in data["tracks"]] == ["demo, linf, ε = 2/255", "demo, linf, ε = 4/255"]
    first = data["tracks"][0]
    assert [attack["control"] for attack in first["attacks"]] == [False] * 4 + [True] * 2
    best = first["rows"][0]
    assert best["model"] == "good"
    assert min(cell[1] for cell in best["cells"] if not first["attacks"][cell[0]]["control"]) == best["robust"][0]
    assert len(best["reflection"]["clean"]) == len(best["reflection"]["adv"]) == len(MOS)
    assert data["families"][0]["sizes"] == ["clean", "2/255", "4/255"]


def test_a_changed_page_is_noticed_but_not_another_librarys_images(site: Path, text: str) -> None:
    page = site / "site/index.html"
    assert not [line for line in check(Records(site), site.parent) if "index.html" in line]
    try:
        page.write_text(text.replace('"rank":1,', '"rank":9,', 1), encoding="utf-8")
        assert f"{page}: differs from what the records give" in check(Records(site), site.parent)
    finally:
        page.write_text(text, encoding="utf-8")
    image = '<img src="data:image/png;base64,{}">'
    assert without_images(image.format("iVBORw0K/+=")) == without_images(image.format("iVBORx"))
    assert without_images(f"a{image}") != without_images(f"b{image}")


# --- in a browser


def start(folder: Path) -> Any:
    """Start a headless Chromium without network access; skip the test where it is not installed."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
    if not chromium or not driver:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={folder}",
                 "window-size=1280,900"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("profile"))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(chromium: Any, site: Path) -> Iterator[Any]:
    """The freshly opened page; at the end the console must be empty."""
    chromium.get("about:blank")
    chromium.get((site / "site/index.html").as_uri())
    yield chromium
    errors = [entry["message"] for entry in chromium.get_log("browser")]
    assert errors == []


def shown(page: Any) -> list[str]:
    """Return the names of the visible rows, from top to bottom."""
    return list(page.execute_script("return [...document.querySelectorAll('tr.row')].map((one) => one.row.name)"))


def by(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def settled(page: Any, condition: str) -> None:
    """Wait until a condition holds, however busy the machine is."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 60).until(lambda driver: driver.execute_script(f"return {condition}"))


def test_rows_are_sorted_by_what_is_clicked(page: Any) -> None:
    ranked = shown(page)
    assert ranked[0] == "good, no defense"
    assert ranked[-1] == f"good + {EVIL}", "what has no rank is last"
    button = by(page, '[data-key="robust"] button')
    button.click()
    assert by(page, '[data-key="robust"]').get_attribute("aria-sort") == "descending"
    by(page, '[data-key="robust"] button').click()
    assert by(page, '[data-key="robust"]').get_attribute("aria-sort") == "ascending"
    assert shown(page)[0] == "bad, no defense"
    assert page.execute_script("return document.activeElement.closest('th')?.dataset.key") == "robust"


def test_rows_are_filtered(page: Any) -> None:
    by(page, "#search").send_keys("WEAK")
    settled(page, "document.querySelectorAll('tr.row').length === 1")
    assert shown(page) == ["weak, no defense"]
    assert by(page, "#count").text == "1 of 4 rows"
    by(page, "#search").clear()
    by(page, "#search").send_keys("nothing is called so")
    settled(page, "document.querySelectorAll('tr.row').length === 0")
    assert "No row matches the filters" in by(page, "#plot").text
    page.execute_script("const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input'))")
    settled(page, "document.querySelectorAll('tr.row').length === 4")
    by(page, "#ranked").click()
    assert len(shown(page)) == 3


def test_a_row_opens_by_key_to_its_attacks_plots_and_command(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    by(page, ".opener").send_keys(Keys.ENTER)
    detail = by(page, "tr.detail")
    assert by(page, ".opener").get_attribute("aria-expanded") == "true"
    command = "iqarena run results/suites/demo-linf-2-255.yaml --model good --defense none --out runs/again"
    assert detail.find_element("css selector", ".command code").text == command
    attacks = [row.text for row in detail.find_elements("css selector", ".attacks tbody tr")]
    assert len(attacks) == 6
    assert attacks[-1].startswith("random-noise (control)")
    assert len(detail.find_elements("css selector", "canvas")) == 2
    assert page.execute_script(
        "return [...document.querySelectorAll('canvas')].every((one) => one.getAttribute('aria-label'))"
    )
    by(page, ".opener").send_keys(Keys.SPACE)
    assert not page.find_elements("css selector", "tr.detail")


def test_a_row_without_a_rank_says_why(page: Any) -> None:
    page.find_elements("css selector", ".opener")[-1].click()
    assert "pgd, away, adaptive" in by(page, "tr.detail").text
    assert "<b>" in page.find_elements("css selector", "tr.row")[-1].text, "names are text, not markup"


def test_tabs_and_tracks(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    names = [tab.text for tab in page.find_elements("css selector", "[role=tab]")]
    assert names == ["Ranking", "Clean and robust", "Each attack", "Against ε"]
    for name in names[1:]:
        by(page, "[role=tab][aria-selected=true]").send_keys(Keys.ARROW_RIGHT)
        assert by(page, "[role=tab][aria-selected=true]").text == name
        assert by(page, "#plot").find_elements("css selector", "canvas, table")
    page.execute_script("const t = document.getElementById('track'); t.value = '1'; t.dispatchEvent(new Event('change'))")
    assert len(shown(page)) == 3
    assert page.current_url.endswith("#demo-linf-4-255")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(page: Any, theme: str) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    try:
        page.refresh()
        by(page, ".opener").click()
        assert page.execute_script("return document.documentElement.scrollWidth") <= metrics["width"]
        paper = page.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[theme]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_images_slide_from_before_to_after(page: Any) -> None:
    openers = {name: index for index, name in enumerate(shown(page))}
    page.find_elements("css selector", ".opener")[openers["bad, no defense"]].click()
    figures = page.find_elements("css selector", "tr.detail figure")
    assert len(figures) == 2
    assert page.execute_script("return [...document.images].every((one) => one.complete && one.naturalWidth === 8)")
    slider, after = (figures[0].find_element("css selector", what) for what in ("input", "img:nth-of-type(2)"))
    for percent in ("0", "80"):
        page.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, percent
        )
        assert after.value_of_css_property("clip-path").replace("0px", "0%").endswith(f"{percent}%)")
    difference = figures[0].find_element("css selector", "img:nth-of-type(3)")
    assert not difference.is_displayed()
    figures[0].find_element("css selector", "button").click()
    assert difference.is_displayed()
