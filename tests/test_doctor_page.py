"""The doctor's command and page: verdict first, what each finding rests on, a command to paste, nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.doctor.diagnose import command, compare, diagnose
from sb3_ppo_edu.doctor.findings import Band
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS
from sb3_ppo_edu.lab.doctor_page import bands_of, draw_metrics, make_page, write_comparison, write_page
from sb3_ppo_edu.lab.page import to_html
from tests.doctor_records import ROWS, make_record

TIME = np.linspace(0.0, 1.0, ROWS)

HIGH = {"train/approx_kl": 0.3, "train/clip_fraction": 0.6, "train/learning_rate": 3e-3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of SB3's PPO whose learning rate is far too high."""
    folder = tmp_path_factory.mktemp("run")
    model = PPO("MlpPolicy", "CartPole-v1", 0.1, n_steps=256, batch_size=64, n_epochs=4, seed=0, device="cpu")
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(12 * 256)
    model.logger.close()
    model.save(folder / "model.zip")
    return folder


def test_page_begins_with_the_verdict() -> None:
    """The verdict is the first paragraph, what to try first comes before the details, and the command has the change."""
    page = make_page(diagnose(make_record(HIGH, {"env": "LunarLander-v3"})))
    assert page.lead[0].startswith("**Something is wrong.** The learning rate is too high")
    assert page.sections[0].title == "What to try first"
    # A third of 3e-3 is 1e-3, and the change goes to 3e-4 at most.
    assert "`sb3-edu train --env LunarLander-v3 --learning-rate 0.0003`" in page.sections[0].text
    assert page.sections[1].title.startswith("The learning rate is too high")
    assert page.sections[1].picture is not None


def test_page_of_a_healthy_run_gives_no_advice() -> None:
    """Nothing found: no advice, no finding, but what was logged and what was looked for."""
    page = make_page(diagnose(make_record()))
    assert page.lead[0].startswith("**Healthy.**")
    assert [section.title for section in page.sections] == ["What was logged", "What was looked for"]


def test_page_of_too_little_says_so() -> None:
    """Two updates: no verdict, and each symptom says why it was not examined."""
    page = make_page(diagnose(make_record(rows=2)))
    assert page.lead[0].startswith("**Not enough to say.**")
    assert page.sections[-1].table is not None
    assert any("2 updates" in row[1] for row in page.sections[-1].table.rows)


def test_page_is_self_contained_and_safe(tmp_path: Path) -> None:
    """The page loads nothing, and a hostile name of an environment is text in it."""
    record = make_record(HIGH, {"env": "<script>alert(1)</script>"})
    html = write_page(diagnose(record), tmp_path).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.html"]
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert html.count("<img") == html.count('alt="')


def test_bands_are_drawn() -> None:
    """A metric's healthy band is a green ground at its ends, within what is shown; a metric that is missing has no panel."""
    record = make_record()
    figure = draw_metrics([record], [Band("train/approx_kl", 0.003, 0.05, log=True), Band("train/nothing", 0.0, 1.0)])
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "train/approx_kl"
    assert axes.get_yscale() == "log"
    (ground,) = axes.patches
    low, high = ground.get_extents().transformed(axes.transData.inverted()).intervaly
    assert (low, high) == (pytest.approx(0.003), pytest.approx(0.05))
    assert axes.get_ylim()[0] < 0.003 < 0.05 < axes.get_ylim()[1]
    assert len(axes.lines) == 1


def test_band_with_one_end_lies_on_its_side_of_it() -> None:
    """Healthy below 2, while all values are above 10: the ground ends at 2 and lies below it."""
    record = make_record({"train/ratio_max": 30.0})
    (axes,) = draw_metrics([record], [Band("train/ratio_max", None, 2.0, log=True)]).axes
    (ground,) = axes.patches
    low, high = ground.get_extents().transformed(axes.transData.inverted()).intervaly
    assert low < high == pytest.approx(2.0)
    assert axes.get_ylim()[0] < 2.0


def test_command_repeats_the_runs_own() -> None:
    """The run's own command with the change behind it; its name is left out, since a folder is never used twice."""
    trained = "sb3-edu train --env CartPole-v1 --name first --steps 5000"
    line = command(make_record(HIGH, {"command": trained}), BY_NAME["learning-rate-too-high"])
    assert line == "sb3-edu train --env CartPole-v1 --steps 5000 --learning-rate 0.0003"
    assert command(make_record(), BY_NAME["ratio-not-one"]) is None


def test_comparison_page_shows_what_differs(tmp_path: Path) -> None:
    """Two runs side by side: their returns, the settings that differ, both curves."""
    comparison = compare([make_record(), make_record(HIGH, {"gamma": 0.5})])
    html = write_comparison(comparison, tmp_path).read_text(encoding="utf-8")
    assert "Settings that differ" in html
    assert "gamma" in html
    assert (
        len(draw_metrics([one.record for one in comparison.diagnoses], [Band("train/approx_kl", None, None)]).axes[0].lines)
        == 2
    )


def test_doctor_of_a_run_of_sb3(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``sb3-edu doctor RUN``: verdict, remedy and a command on the console, report and page in the folder asked for."""
    assert main(["doctor", str(run), "--output", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ill: ")
    assert "What to try first" in printed
    assert "sb3-edu train --env YOUR_ENV --learning-rate" in printed
    assert "not examined" in printed
    report = json.loads((tmp_path / "report" / "doctor.json").read_text(encoding="utf-8"))
    assert "learning-rate-too-high" in [finding["name"] for finding in report["findings"]]
    assert (tmp_path / "report" / "doctor.html").is_file()
    assert not (run / "doctor.html").exists()


def test_doctor_writes_beside_the_log_or_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--output`` the files go into the run; with ``--no-page`` there are none."""
    assert main(["doctor", str(run / "progress.csv"), "--no-page"]) == 0
    assert not (run / "doctor.json").exists()
    assert main(["doctor", str(run)]) == 0
    assert str(run / "doctor.html") in capsys.readouterr().out
    for name in ("doctor.html", "doctor.json"):
        (run / name).unlink()


def test_doctor_compares(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--compare RUN RUN``: each run's verdict and what they come to together; one run is not enough."""
    assert main(["doctor", "--compare", str(run), str(run), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "they agree" in printed
    assert (tmp_path / "doctor.html").is_file()
    assert main(["doctor", "--compare", str(run)]) == 2
    assert "expected two or more" in capsys.readouterr().err


def test_table_of_symptoms(capsys: pytest.CaptureFixture[str]) -> None:
    """``--symptoms`` prints a row of seven cells for each, and benchmarks/doctor/symptoms.md is what it prints."""
    assert main(["doctor", "--symptoms"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) == 2 + len(SYMPTOMS)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in lines)
    assert all(symptom.source in printed and symptom.not_when in printed for symptom in SYMPTOMS)
    written = Path(__file__).resolve().parent.parent / "benchmarks" / "doctor" / "symptoms.md"
    assert written.read_text(encoding="utf-8") == "# What the doctor looks for\n\n" + printed


@pytest.mark.parametrize(("arguments", "words"), [(["gone"], "there is nothing"), ([], "RUN: not given")])
def test_doctor_refuses_what_is_no_run(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is not there, or none at all: exit code 2, and a line that says what was expected."""
    assert main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_page_shows_a_run_without_a_return() -> None:
    """A log without returns still makes a page."""
    assert to_html(make_page(diagnose(make_record(without=("rollout/ep_rew_mean", "rollout/ep_len_mean")))))


def test_picture_shows_what_the_finding_rests_on() -> None:
    """NaN on its way is seen in the value loss, or in the KL: that metric is the first one drawn, each is drawn once."""
    growing = np.where(TIME < 0.9, 0.01, 1e12)
    (finding, *_) = diagnose(make_record({"train/approx_kl": growing})).findings
    assert (finding.name, finding.evidence[0].key) == ("nan-coming", "train/approx_kl")
    keys = [band.key for band in bands_of(finding)]
    assert keys == ["train/approx_kl", "train/value_loss"]
    assert (bands_of(finding)[0].low, bands_of(finding)[0].high) == (0.003, 0.05)


class Outline(HTMLParser):
    """What a page consists of: headings, pictures with their words, and what it would load or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.paths: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "img":
            self.pictures.append((values.get("src") or "", values.get("alt") or ""))
        self.paths += [value for name, value in attrs if name in ("src", "href", "action") and value is not None]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())


def test_what_hides_a_setting_is_drawn_with_its_own_band() -> None:
    """A rate that is suspected beside huge rewards shows the returns in their healthy range of 0.1 to 300, and its own."""
    record = make_record({"train/return_std": 2e4, "train/value_loss": 4e8, "train/learning_rate": 0.02})
    finding = next(one for one in diagnose(record).findings if one.name == "learning-rate-too-high")
    bands = {band.key: (band.low, band.high) for band in bands_of(finding)}
    assert list(bands)[:2] == ["train/learning_rate", "train/return_std"]
    assert bands["train/learning_rate"] == (1e-5, 1e-3)
    assert bands["train/return_std"] == (0.1, 300.0)


def test_page_has_the_order_of_a_report() -> None:
    """Verdict, what to try first, findings, what was logged, what was looked for; pictures inside, each with its words."""
    diagnosis = diagnose(make_record(HIGH | {"train/entropy_loss": -0.69 * np.exp(-30 * TIME)}, {"env": "CartPole-v1"}))
    outline = Outline(to_html(make_page(diagnosis)))
    assert outline.headings[:2] == ["The doctor's report", "What to try first"]
    assert outline.headings[-2:] == ["What was logged", "What was looked for"]
    found = [BY_NAME[finding.name].title for finding in diagnosis.findings]
    assert [heading.rsplit(" (", 1)[0] for heading in outline.headings[2:-2]] == found
    assert len(outline.pictures) == len(found) + 1
    assert all(source.startswith("data:image/") and words for source, words in outline.pictures)
    assert outline.paths == [source for source, _ in outline.pictures]
    assert not {"script", "link", "iframe", "object", "form"} & set(outline.tags)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or chrome on this machine; its structure is tested above"
)

MEASURE = """<pre id="measured"></pre><script>
addEventListener("load", () => {
  const linear = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = s => { const [r, g, b] = s.match(/[0-9.]+/g).map(Number);
    return .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b); };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const contrast = e => { const t = light(getComputedStyle(e).color);
    return (Math.max(t, ground) + .05) / (Math.min(t, ground) + .05); };
  document.getElementById("measured").textContent = JSON.stringify({
    ground: ground,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    pictures: [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width <= innerWidth),
    contrast: Math.min(...[...document.querySelectorAll("h1, h2, p, td, th, figcaption, code")].map(contrast)),
    first: document.querySelector("p").textContent,
    top: [...document.querySelectorAll("code")].find(e => e.textContent.startsWith("sb3-edu train")).offsetTop,
  });
});
</script></body>"""


def browse(folder: Path, *flags: str) -> str:
    """Run the browser without a window on what is in a folder, and give what it prints."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), [(1, 1280), (0, 1280), (1, 500)], ids=["light", "dark", "phone"])
def test_page_in_a_browser(scheme: int, width: int, tmp_path: Path) -> None:
    """
    In a real browser: every picture is shown and fits, nothing sticks out to the side, and all text can be read.

    Read means a contrast of 4.5 (WCAG AA). The verdict is the first paragraph, and the command to paste stands on the first
    screen. Dark is dark and light is light.
    """
    folder = write_page(diagnose(make_record(HIGH, {"env": "LunarLander-v3"})), tmp_path).parent
    html = (folder / "doctor.html").read_text(encoding="utf-8")
    (folder / "measured.html").write_text(html.replace("</body>", MEASURE), encoding="utf-8")
    page = (folder / "measured.html").as_uri()
    flags = (f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},900")
    dom = browse(tmp_path, *flags, "--dump-dom", page)
    measured = json.loads(dom.split('<pre id="measured">')[1].split("</pre>")[0].replace("&amp;", "&"))
    assert (measured["ground"] > 0.9) is (scheme == 1)
    assert measured["overflow"] <= 0
    assert measured["pictures"]
    assert all(measured["pictures"])
    assert measured["contrast"] >= 4.5
    assert measured["first"].startswith("Something is wrong.")
    assert 0 < measured["top"] < 900


@needs_browser
def test_page_on_paper(tmp_path: Path) -> None:
    """Printed, it is a PDF of several pages, and no longer than twice as many as it has sections."""
    folder = write_page(diagnose(make_record(HIGH)), tmp_path).parent
    paper = tmp_path / "page.pdf"
    browse(tmp_path, f"--print-to-pdf={paper}", (folder / "doctor.html").as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", content))
    assert 2 <= pages <= 2 * len(make_page(diagnose(make_record(HIGH))).sections)
