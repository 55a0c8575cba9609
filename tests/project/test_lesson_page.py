"""The lesson's page in Chromium: every tab, its numbers and its samplers beside the library's."""

import shutil

import pytest
import torch

from build import SAMPLERS, TABS, chain_of
from common import ROOT
from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser
from ddpm_from_scratch.data.points import swiss_roll
from ddpm_from_scratch.density.score import snr_step_size
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.process.noise_schedules import alphas_cumprod_from_betas, betas_for_schedule
from worked import SCHEDULES

PAGE = ROOT / "lesson" / "index.html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module", params=["computer", "phone"])
def page(browser, request):
    """The page from its file, and a check at the end that it asked for nothing and complained of nothing."""
    size = {"width": 1200, "height": 900}
    if request.param == "phone":
        size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, has_touch=request.param == "phone")
    opened, said, asked = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(PAGE.as_uri())
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("blob:", PAGE.as_uri()))] == []
    context.close()


def open_tab(page, name):
    page.click(f"#tab-{name}")
    page.wait_for_function(f"!document.getElementById('{name}').hidden")


def points_of(page, expression):
    return torch.tensor(page.evaluate(f"Array.from({expression})")).reshape(-1, 2)


def set_range(page, name, value):
    page.evaluate(
        "([id, value]) => { const e = document.getElementById(id); e.value = value; "
        "e.dispatchEvent(new Event('input', { bubbles: true })); }",
        [name, value],
    )


def test_page_is_one_small_file():
    text = PAGE.read_text()
    assert len(text) < 1_500_000
    assert 'src="http' not in text and "@import" not in text and '<link rel="stylesheet' not in text


def test_tab_opens_at_its_top_and_back_leads_back(page):
    open_tab(page, "forward")
    page.evaluate("scrollTo(0, 900)")
    open_tab(page, "errata")
    assert page.evaluate("scrollY") == 0
    page.go_back()
    page.wait_for_function("!document.getElementById('forward').hidden && scrollY === 0")


def test_every_tab_is_within_the_screen(page):
    for name in TABS:
        box = page.locator(f"#tab-{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.evaluate("innerWidth")


def test_reverse_shows_the_noise_it_starts_from(page):
    page.reload()
    open_tab(page, "reverse")
    shown = points_of(page, "reverse.points")
    assert shown.shape == (1000, 2)
    page.click("#reverse-start")
    page.wait_for_function("reverse.frames.length > 1")
    assert torch.equal(points_of(page, "reverse.frames[0]"), shown)
    page.fill("#reverse-seed", "5")
    page.press("#reverse-seed", "Tab")
    assert not torch.equal(points_of(page, "reverse.points"), shown)
    assert page.is_disabled("#reverse-play")


def test_every_tab_opens_alone(page):
    for name in TABS:
        open_tab(page, name)
        shown = [other for other in TABS if not page.evaluate(f"document.getElementById('{other}').hidden")]
        assert shown == [name]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"


def test_tabs_are_reached_by_keys(page):
    open_tab(page, "forward")
    page.focus("#tab-forward")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("!document.getElementById('reverse').hidden")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("!document.getElementById('forward').hidden")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_shows_what_the_library_has(page, schedule):
    open_tab(page, "forward")
    page.select_option("#forward-schedule", schedule)
    table = DDPMFromScratchScheduler(beta_schedule=SCHEDULES[schedule]).alphas_cumprod
    set_range(page, "forward-t", 0)
    data = points_of(page, "forward.points")
    torch.testing.assert_close(data, swiss_roll(2000, torch.Generator().manual_seed(0)), rtol=0, atol=1e-3)
    for t in (1, 250, 500, 750, 1000):
        set_range(page, "forward-t", t)
        alpha_bar = float(table[t - 1])
        assert abs(float(page.inner_text("#forward-a")) - alpha_bar) < 1e-3
        assert abs(float(page.inner_text("#forward-b")) - (1 - alpha_bar)) < 1e-3
        points = points_of(page, "forward.points")
        noise = points_of(page, "forward.noise")
        expected = alpha_bar**0.5 * data + (1 - alpha_bar) ** 0.5 * noise
        torch.testing.assert_close(points, expected, rtol=0, atol=1e-3)
        shown = float(page.inner_text("#forward-variance"))
        assert abs(shown - float(points.var(0, correction=0).mean())) < 1e-3


def test_forward_has_every_data_set(page):
    open_tab(page, "forward")
    set_range(page, "forward-t", 0)
    seen = set()
    for name in page.eval_on_selector_all("#forward-data option", "all => all.map(one => one.value)"):
        page.select_option("#forward-data", name)
        points = points_of(page, "forward.points")
        assert points.shape == (2000, 2) and abs(float(points.var(0).mean()) - 1) < 0.1
        seen.add(float(points[0, 0]))
    assert len(seen) == 6


def test_reverse_brings_the_spiral_back(page):
    open_tab(page, "reverse")
    page.select_option("#reverse-sampler", "few_step")
    page.select_option("#reverse-steps", "10")
    page.select_option("#reverse-count", "2000")
    page.click("#reverse-start")
    page.wait_for_function("reverse.frames.length === 11 && !reverse.playing", timeout=120_000)
    start, end = points_of(page, "reverse.frames[0]"), points_of(page, "reverse.points")
    data = swiss_roll(2000, torch.Generator().manual_seed(7))
    assert sliced_wasserstein(end, data) < 0.1 < 0.2 < sliced_wasserstein(start, data)
    set_range(page, "reverse-where", 0)
    torch.testing.assert_close(points_of(page, "reverse.points"), start)
    page.click("#reverse-play")
    page.wait_for_function("reverse.position > 1")
    page.click("#reverse-play")
    assert page.inner_text("#reverse-play") == "Play"
    where = page.evaluate("reverse.position")
    page.wait_for_timeout(200)
    assert page.evaluate("reverse.position") == where


def test_new_settings_leave_nothing_of_the_run_before(page):
    open_tab(page, "reverse")
    page.select_option("#reverse-sampler", "few_step")
    page.select_option("#reverse-count", "500")
    for _ in range(3):  # one animation, however often it is pressed
        page.click("#reverse-start")
    page.wait_for_function("reverse.frames.length > 3")
    began = page.evaluate("reverse.position")
    page.wait_for_timeout(1000)
    assert page.evaluate("reverse.position") - began < 1.3 * 10 / 4
    for setting, chosen in (
        ("#reverse-sampler", "ddim"),
        ("#reverse-steps", "5"),
        ("#reverse-count", "1000"),
    ):
        page.click("#reverse-start")
        page.wait_for_function("reverse.frames.length > 3")
        page.select_option(setting, chosen)
        assert "Press Reverse" in page.inner_text("#reverse-status")
        assert page.is_disabled("#reverse-play") and page.evaluate("reverse.frames.length") == 1
    for typed, used in (("-5", "0"), ("", "0"), ("1.7", "1"), ("4294967296", "999999")):
        page.fill("#reverse-seed", typed)
        page.press("#reverse-seed", "Tab")
        assert page.input_value("#reverse-seed") == used
    page.select_option("#reverse-sampler", "few_step")
    page.select_option("#reverse-steps", "10")


def test_seed_decides_the_points(page):
    open_tab(page, "reverse")
    page.select_option("#reverse-count", "500")
    ends = []
    for seed in ("1", "2", "1"):
        page.fill("#reverse-seed", seed)
        page.click("#reverse-start")
        page.wait_for_function("reverse.frames.length === 11", timeout=120_000)
        ends.append(points_of(page, "reverse.frames[10]"))
    assert torch.equal(ends[0], ends[2]) and not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("sampler", "num_steps"), [("few_step", 5), ("few_step", 20), ("ddim", 10), ("ddpm", 20), ("ddpm", 100)]
)
def test_sampler_of_the_page_is_the_library_s(page, pipeline_of_the_page, sampler, num_steps, generator):
    pipeline = pipeline_of_the_page
    scheduler = chain_of(pipeline, sampler)
    scheduler.set_timesteps(num_steps)
    x = start = torch.randn(7, 2, generator=generator)
    noise = torch.randn(num_steps, 7, 2, generator=generator)
    expected = []
    for t, z in zip(scheduler.timesteps, noise, strict=True):
        with torch.no_grad():
            x = scheduler.step(pipeline.unet(x, t).sample, t, x, variance_noise=z).prev_sample
        expected.append(x)
    walked = page.evaluate(
        """({ sampler, count, start, noise }) => {
          const network = makeNetwork(lesson.config, readSafetensors(weights));
          const estimates = [];
          let points = Float32Array.from(start);
          return lesson.chains[sampler][count].map(unpacked).map((step, index) => {
            const left = noise[index].slice();
            points = reverseStep(network, points, step, null, null, 1, () => left.shift(), estimates);
            return Array.from(points);
          });
        }""",
        {
            "sampler": sampler, "count": num_steps, "start": start.flatten().tolist(),
            "noise": noise.flatten(1).tolist(),
        },
    )  # fmt: skip
    torch.testing.assert_close(torch.tensor(walked), torch.stack(expected).flatten(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [1, 100, 900])
def test_langevin_step_is_the_library_s(page, pipeline_of_the_page, t, generator):
    open_tab(page, "score")
    pipeline = pipeline_of_the_page
    x, noise = torch.randn(2, 9, 2, generator=generator)
    denoiser = Denoiser(pipeline.unet, pipeline.scheduler)
    alpha_bar = float(pipeline.scheduler.alphas_cumprod[t - 1])
    size = snr_step_size(alpha_bar, 0.25)
    with torch.no_grad():
        expected = x + size / 2 * denoiser(x, t - 1).score + size**0.5 * noise
    stepped = page.evaluate(
        """({ points, t, noise }) => {
          const network = makeNetwork(lesson.config, readSafetensors(weights));
          const { step, a } = atTime(t);
          const x = Float32Array.from(points);
          return Array.from(langevinStep(network, x, step, a, 0.25, () => noise.shift()));
        }""",
        {"points": x.flatten().tolist(), "t": t, "noise": noise.flatten().tolist()},
    )
    torch.testing.assert_close(torch.tensor(stepped), expected.flatten(), rtol=1e-4, atol=1e-5)


def test_walkers_find_the_data(page):
    open_tab(page, "score")
    set_range(page, "score-t", 100)
    page.click("#score-reset")
    assert page.evaluate("score.steps") == 0
    page.click("#score-walk")
    page.wait_for_function("score.steps >= 150", timeout=120_000)
    page.click("#score-walk")
    walkers = points_of(page, "score.walkers")
    source = torch.Generator().manual_seed(3)
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    data = swiss_roll(1000, source)
    noised = scheduler.add_noise(data, torch.randn(1000, 2, generator=source), torch.full((1000,), 99))
    assert sliced_wasserstein(walkers, noised) < 0.25


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("total", [50, 1000, 4000])
def test_schedules_show_what_is_left(page, total, scaled):
    open_tab(page, "schedules")
    page.select_option("#schedules-total", str(total))
    page.set_checked("#schedules-scaled", scaled)
    tables = [
        alphas_cumprod_from_betas(betas_for_schedule(kind, total, scale_betas_by_length=scaled))
        for kind in SCHEDULES.values()
    ]
    for t in (1, 2, total // 2 + 1, total - 1, total):
        set_range(page, "schedules-t", t)
        rows = page.eval_on_selector_all(
            "#schedules-left tr", "rows => rows.map(row => Array.from(row.cells, cell => cell.textContent))"
        )
        assert len(rows) == len(SCHEDULES)
        for row, table in zip(rows, tables, strict=True):
            left, gone = float(table[t - 1]), 1 - float(table[t - 1])
            assert float(row[1]) == pytest.approx(left, rel=5e-3, abs=6e-5 if left > 1e-3 else 0)
            assert float(row[2]) == pytest.approx(gone, rel=5e-3, abs=6e-5)
    assert page.locator("#schedules-chart canvas").count() == 1
    page.select_option("#schedules-what", "snr")
    assert page.locator("#schedules-chart canvas").count() == 1


def test_theme_changes(page):
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_formulas_are_mathml_and_pictures_are_in_the_page(page):
    open_tab(page, "errata")
    assert page.locator("#errata h2").count() == 16  # the numbers, and fifteen errata
    assert page.locator("math").count() > 20
    assert page.eval_on_selector_all("img", "all => all.every(one => one.src.startsWith('data:'))")
    for name in SAMPLERS:
        assert page.locator(f"#reverse-sampler option[value={name}]").count() == 1


def test_subscripts_are_below_the_line(page):
    open_tab(page, "reverse")
    page.evaluate("document.fonts.ready")
    below = page.eval_on_selector_all(
        "#reverse msub",
        "all => all.map(one => Array.from(one.children, child => child.getBoundingClientRect().bottom))"
        ".map(([base, sub]) => sub - base)",
    )
    assert len(below) > 20 and min(below) > 1


def test_an_address_of_a_tab_opens_at_the_top(browser):
    for name in TABS:
        opened = browser.new_page(viewport={"width": 390, "height": 844})
        opened.goto(f"{PAGE.as_uri()}#{name}")
        opened.wait_for_timeout(300)
        assert opened.evaluate(f"!document.getElementById('{name}').hidden && scrollY === 0"), name
        opened.close()


def test_dragging_over_the_chart_does_not_zoom(page):
    open_tab(page, "schedules")
    box = page.locator("#schedules-chart .u-over").bounding_box()
    before = page.evaluate("[chart.scales.x.min, chart.scales.x.max]")
    page.mouse.move(box["x"] + 50, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 60, steps=5)
    page.mouse.up()
    assert page.evaluate("[chart.scales.x.min, chart.scales.x.max]") == before
