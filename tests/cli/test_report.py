"""The page about a run, as a browser shows it: it sorts, shows its pictures, obeys the keyboard and fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import report
import test_baseline
import train_SemiSAM_O1
from browser import chromium
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Geometry, Volume
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.report.pictures import planes
from tiny_cohort import train_flags, write_cohort

MARKUP = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, trained for two rounds and tested."""
    folder = tmp_path_factory.mktemp("report")
    root = write_cohort(folder / "data")
    (root / "preparation.json").write_text(json.dumps(Preparation().to_json() | {"class_names": {"2": "atrium"}}))
    assert run_command(train_SemiSAM_O1.main, train_flags(root, folder / "run", num_rounds=2)) == 0
    flags = ["--root_path", str(root), "--exp", str(folder / "run"), "--device", "cpu"]
    assert run_command(test_baseline.main, flags) == 0
    assert run_command(report.main, [str(folder / "run")]) == 0
    return folder / "run_MT_1label_1" / "unet_3D"


def requests(driver) -> list[str]:
    """Return the addresses that the page asked for."""
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [e["request"]["url"] for e in asked if not e["documentURL"].startswith("chrome")]  # the browser's first tab


def column(driver, table: str, index: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`#t-${arguments[0]} tbody tr`)].map(r => r.cells[arguments[1]].innerText)"
    )
    return driver.execute_script(script, table, index)


def test_page_in_a_browser(run: Path, tmp_path: Path) -> None:
    page = run / "report.html"
    with chromium(tmp_path / "profile") as driver:
        driver.get(page.as_uri())
        fetched = [url for url in requests(driver) if not url.startswith("data:")]
        assert fetched == [page.as_uri()]
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []

        script = "return [...document.querySelectorAll('.slice image')].map(i => i.getBoundingClientRect().width)"
        widths = driver.execute_script(script)
        assert len(widths) == 3 * (5 + 2 + 1 + 1)  # cohort, test, template and validation scans
        assert min(widths) > 20
        decoded = driver.execute_async_script(
            "const done = arguments[0]; Promise.all([...document.querySelectorAll('.slice image')].map(i => {"
            "const p = new Image(); p.src = i.getAttribute('href'); return p.decode().then(() => p.naturalWidth)}))"
            ".then(done, () => done(null))"
        )
        assert decoded is not None and min(decoded) >= 17

        # Worst first, as written; a click sorts, a second one reverses, from the keyboard as well.
        dice = [float(text) for text in column(driver, "cohort", 1)]
        assert dice == sorted(dice)
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        name, score = driver.find_elements(By.CSS_SELECTOR, "#t-cohort thead button")[:2]
        name.click()
        assert column(driver, "cohort", 0) == [f"train{i}" for i in range(1, 6)]
        name.send_keys(Keys.ENTER)
        assert column(driver, "cohort", 0) == [f"train{i}" for i in range(5, 0, -1)]
        assert name.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
        score.click()
        assert [float(text) for text in column(driver, "cohort", 1)] == dice

        # The switches hide outlines everywhere, the enlarged slice opens and closes by keyboard.
        def visible(kind: str) -> str:
            script = "return getComputedStyle(document.querySelector(arguments[0])).visibility"
            return driver.execute_script(script, f".slice .{kind}")

        switch = driver.find_element(By.CSS_SELECTOR, "input[data-kind=truth]")
        assert visible("truth") == visible("prediction") == "visible"
        switch.send_keys(Keys.SPACE)
        assert (visible("truth"), visible("prediction")) == ("hidden", "visible")
        assert driver.execute_script(
            "return [...document.querySelectorAll('.scroll')].every(p => p.scrollWidth <= p.clientWidth)"
        )
        driver.find_element(By.CSS_SELECTOR, "#t-test tbody a").send_keys(Keys.ENTER)
        assert driver.execute_script("return document.querySelector(':target').tagName") == "ARTICLE"


def test_all_slices_are_stepped_through(run: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as driver:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        driver.get((run / "report.html").as_uri())
        article = driver.find_element(By.CSS_SELECTOR, "#cohort article")
        button, slider = (article.find_element(By.CSS_SELECTOR, s) for s in (".zoom", "input[type=range]"))

        def state(place) -> tuple[str, str, int]:
            """Return the position that is told, the picture and the number of outlines of the true label."""
            image = place.find_element(By.CSS_SELECTOR, "image").get_attribute("href")
            outlines = place.find_element(By.CSS_SELECTOR, "svg.slice").find_elements(By.CSS_SELECTOR, ".truth")
            return place.find_element(By.CSS_SELECTOR, "output").text, image, len(outlines)

        slider.send_keys(Keys.HOME)
        first = state(article)
        assert (first[0], first[2]) == ("1 of 17", 0)
        slider.send_keys(Keys.ARROW_RIGHT)
        assert state(article)[0] == "2 of 17" and state(article)[1] != first[1]
        slider.send_keys(Keys.END, Keys.ARROW_RIGHT)
        assert state(article)[0] == "17 of 17"
        for _ in range(8):
            button.send_keys(Keys.ARROW_LEFT)
        assert state(article)[0] == "9 of 17" and state(article)[2] == 2
        assert button.get_attribute("aria-label").endswith("axial slice 9 of 17")

        # The enlarged slice is the same one and moves with it.
        button.send_keys(Keys.ENTER)
        dialog = driver.find_element(By.ID, "large")
        assert dialog.get_attribute("open") is not None
        assert state(dialog) == state(article)
        driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        assert state(dialog) == state(article) and state(dialog)[0] == "11 of 17"
        driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert dialog.get_attribute("open") is None
        article.find_elements(By.CSS_SELECTOR, ".zoom")[1].send_keys(Keys.ENTER)
        assert not dialog.find_element(By.CSS_SELECTOR, "input").is_displayed()  # one coronal slice
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_classes_have_colors_and_sources_have_line_styles(run: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as driver:
        driver.get((run / "report.html").as_uri())
        styles = driver.execute_script(
            "return [...document.querySelectorAll('#cohort .slice path')].map(p => [p.getAttribute('class'), "
            "(s => [s.stroke, s.strokeDasharray])(getComputedStyle(p))])"
        )
        colors = {(name.split()[1], color) for name, (color, _) in styles}
        dashes = {(name.split()[0], dash) for name, (_, dash) in styles}
        assert colors == {("c1", "rgb(213, 94, 0)"), ("c2", "rgb(31, 147, 214)")}
        assert {kind for kind, _ in dashes} == {"truth", "first", "prediction"}
        assert len({dash for _, dash in dashes}) == 3
        keys = driver.execute_script(
            "return [...document.querySelectorAll('#cohort .switches .key')].map(k => "
            "[k.parentElement.innerText, getComputedStyle(k).backgroundColor])"
        )
        assert keys == [["class 1", "rgb(213, 94, 0)"], ["atrium", "rgb(31, 147, 214)"]]


def test_pictures_keep_to_their_bytes() -> None:
    image = np.random.default_rng(0).random((150, 130, 60), np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[30:120, 20:110, 5:50] = 1
    volume = Volume("noise", image, label, Geometry((1.0, 1.0, 2.0), (0.0, 0.0, 0.0), known=True))
    for limit in (2_000_000, 300_000):
        axial, *others = planes(volume, {"truth": label}, limit)
        page = json.dumps([axial.slices, others])
        assert len(page) < 1.1 * limit
        assert len(axial.slices) == 60 and not any(plane.slices for plane in others)


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_a_phone_and_both_color_schemes(run: Path, tmp_path: Path, dark: bool) -> None:
    with chromium(tmp_path / "profile", 390, 844, dark) as driver:
        driver.get((run / "report.html").as_uri())
        wide, seen = driver.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
        assert wide <= seen
        hidden = driver.execute_script(
            "return [...document.querySelectorAll('.framed')].map(f => [f.querySelector('.hint').hidden, "
            "(s => s.scrollWidth <= s.clientWidth)(f.querySelector('.scroll'))])"
        )
        assert all(hint == fits for hint, fits in hidden)
        assert not all(fits for _, fits in hidden)
        command_overflow, name_height = driver.execute_script(
            "const c = document.querySelector('code.command');"
            "const n = document.querySelector('#t-cohort th[data-value] > *');"
            "n.textContent = 'hippocampus_025'; return [c.scrollWidth - c.clientWidth, n.offsetHeight]"
        )
        assert command_overflow <= 0 and name_height < 30, "the command is whole, the name on one line"
        colors = driver.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color, "
            "getComputedStyle(document.querySelector('.chart text')).fill]"
        )
        paper, ink, soft = (sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in colors)
        assert (paper < 60) == dark
        assert abs(ink - paper) > 150 and abs(soft - paper) > 90


def test_page_holds_what_the_run_left(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "https://" not in text and text.count("http://") == 0
    for part in (
        "train5",
        "test1",
        "Validation Dice",
        "Pseudo-label Dice",
        "--consistency_rampup",
        "Which scan to label next",
        "Template: 1 scan",
        "Validation: 1 scan",
        "Cohort: 5 scans",
        "1 labeled scan, 5 unlabeled scans",
        "2 rounds of 4 iterations",
        "selected by 1 label<",
        "atrium [ml]",
        'href="pseudo_labels/round2.h5"',
        'href="test_predictions.h5"',
        "data/train0.h5",
    ):
        assert part in text
    summary = json.loads((run / "test_metrics.json").read_text())["summary"]["overall"]["dice"]["mean"]
    assert f"{summary:.3f}" in text


def test_unfinished_and_missing_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(report.main, [str(tmp_path / "nothing")]) == 2
    assert "no trained model" in capsys.readouterr().err
    (tmp_path / "unet_3D").mkdir()
    (tmp_path / "unet_3D" / "args.json").write_text((run / "args.json").read_text())
    assert run_command(report.main, [str(tmp_path)]) == 2
    assert "round 0 is not finished" in capsys.readouterr().err
    (tmp_path / "unet_3D" / "pseudo_labels").mkdir()
    labels = run / "pseudo_labels" / "round0.h5"
    (tmp_path / "unet_3D" / "pseudo_labels" / "round0.h5").write_bytes(labels.read_bytes())
    assert run_command(report.main, [str(tmp_path)]) == 0
    assert "0 of 2 rounds" in (tmp_path / "unet_3D" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "notes.html").write_text("mine")
    assert run_command(report.main, [str(tmp_path), "--out", str(tmp_path / "notes.html")]) == 2
    assert (tmp_path / "notes.html").read_text() == "mine"


def test_a_damaged_round_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "unet_3D")
    labels = tmp_path / "unet_3D" / "pseudo_labels" / "round1.h5"
    labels.write_bytes(labels.read_bytes()[:1000])
    page = tmp_path / "page.html"
    assert run_command(report.main, [str(tmp_path), "--out", str(page)]) == 2
    error = capsys.readouterr().err
    assert str(labels) in error and "--resume" in error
    assert not page.exists()


def test_names_with_markup_are_text(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "unet_3D")
    content = json.loads((run / "args.json").read_text())
    content["preparation"] = {"class_names": {"1": MARKUP, "2": "$x^2$"}}
    content["arguments"]["exp"] = MARKUP
    (tmp_path / "unet_3D" / "args.json").write_text(json.dumps(content))
    results = json.loads((run / "test_metrics.json").read_text())
    (tmp_path / "unet_3D" / "test_metrics.json").write_text(json.dumps({**results, "test_list": MARKUP}))
    assert run_command(report.main, [str(tmp_path)]) == 0
    page = (tmp_path / "unet_3D" / "report.html").read_text(encoding="utf-8")
    assert MARKUP not in page and "<img src" not in page
    assert page.count("&lt;img src") > 10
    assert "$x^2$" in page


def test_only_the_worst_cases_are_pictured(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run_command(report.main, ["--cases", "2", str(run), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 2 + 2 + 1 + 1
    assert "The 2 worst of 5 are shown" in text
    anchors = re.findall(r'<a href="#([^"]+)"', text)
    assert all(f'id="{anchor}"' in text for anchor in anchors)  # of pictured scans alone
    assert (run / "pseudo_labels" / "round2.h5").as_uri() in text
    assert run_command(report.main, [str(run), "--cases", "-1"]) == 2
