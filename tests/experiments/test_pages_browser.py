"""The page of `avalanche-dgm report` in a real browser: nothing is loaded, everything works."""

import csv
import io
import time
from itertools import pairwise

import pytest
from browser import Browser, find_browser
from runs_on_disk import all_panels, result, write

from avalanche_dgm.experiments.pages import write_page

PATH = find_browser()
pytestmark = pytest.mark.skipif(
    PATH is None,
    reason="no browser: install Chromium, or name one in the variable AVALANCHE_DGM_BROWSER",
)
PHONE, DESK = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with everything: two streams, seeds, pictures, an unfinished run, long names."""
    folder = tmp_path_factory.mktemp("runs")
    for method, panels in (("naive", None), ("dgdmn", all_panels), ("dgr", all_panels)):
        for seed in range(2):
            made = result(method, seed, learned=4 if (method, seed) == ("dgr", 1) else None)
            write(folder / "compare" / method / f"seed{seed}", made, panels=panels)
    names = [f"a task with a rather long name {j}" for j in range(20)]
    options = {"an_option_with_a_long_name": "x" * 80}
    for value in (1, 2):
        made = result("dgr", n=20, stream="digits", tasks=names, method_options=options, lr=value)
        write(folder / f"long{value}", made, panels=all_panels)
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_page([folder], page, title="A title " + "that-is-long-and-has-no-spaces" * 3)
    return page


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    browser = Browser(PATH, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


CHART = (
    "document.querySelector('[data-chart][aria-label=\"Average accuracy on experiences seen\"]')"
)
BOX = f"{CHART}.closest('.card')"


def wait(browser, expression, seconds=60):
    """Waits until an expression is true."""
    end = time.monotonic() + seconds
    while not browser.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def drawn(browser, chart=None):
    """Waits until a chart is drawn, or all are: what is in sight comes first."""
    done = f"!!{chart}.querySelector('svg')" if chart else "document.documentElement.dataset.drawn"
    wait(browser, done)


@pytest.fixture
def browser(running, path):
    """The page at the size of a desk's screen; what goes wrong with it fails the test."""
    running.problems.clear()
    running.requests.clear()
    running.script(True)
    running.scheme("light")
    running.size(*DESK)
    running.open(path)
    drawn(running, CHART)
    yield running
    assert running.problems == []
    assert [r for r in running.requests if not r.startswith(("file:", "data:", "blob:"))] == []


def test_everything_is_drawn_and_only_the_file_is_asked_for(browser, path):
    drawn(browser)
    assert path.as_uri() in browser.requests
    assert browser.evaluate("document.querySelectorAll('[data-chart]').length") > 50
    # A drawing is wide, and has marks. The matrices of twenty tasks are among them.
    assert (
        browser.evaluate(
            "[...document.querySelectorAll('[data-chart]')].filter(c => {"
            " const svg = c.querySelector('svg');"
            " return !svg || svg.getBoundingClientRect().width < 150"
            "  || !svg.querySelector('.role-mark :is(path, rect)'); }).map(c => c.ariaLabel)"
        )
        == []
    )
    # Every picture is whole.
    assert browser.evaluate("document.images.length") > 20
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_a_request_would_be_stopped(running, path, tmp_path):
    # The test of requests sees one, and the policy of the page stops it.
    text = path.read_text(encoding="utf-8")
    other = tmp_path / "other.html"
    other.write_text(text.replace("<main>", '<main><img src="http://localhost:9/x.png">'))
    running.problems.clear()
    running.open(other)
    running.evaluate("1")
    assert any("Content Security Policy" in str(problem) for problem in running.problems)


def ticks(browser, axis, chart=CHART):
    """The numbers along an axis of a chart: 0 below, 1 at the left."""
    texts = browser.evaluate(
        f"[...{chart}.querySelectorAll('.role-axis-label')].map(g =>"
        " [...g.querySelectorAll('text')].filter(t => t.getAttribute('opacity') !== '0')"
        ".map(t => t.textContent))"
    )
    return sorted(float(text.replace("\u2212", "-")) for text in texts[axis])


def press(browser, key):
    codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13}
    for kind in ("keyDown", "keyUp"):
        more = {"windowsVirtualKeyCode": codes[key]} if key in codes else {"text": key}
        if kind == "keyUp":
            more.pop("text", None)
        browser.send("Input.dispatchKeyEvent", type=kind, key=key, **more)


def settle(browser):
    browser.evaluate("new Promise(done => setTimeout(done, 150))")


def test_zoom_with_buttons_and_with_the_keyboard(browser):
    whole = ticks(browser, 0)
    assert (whole[0], whole[-1]) == (1, 5)
    browser.evaluate(f"{BOX}.querySelector('[data-do=in]').click()")
    browser.evaluate(f"{BOX}.querySelector('[data-do=in]').click()")
    settle(browser)
    inner = ticks(browser, 0)
    assert inner[0] > 1
    assert inner[-1] < 5
    browser.evaluate(f"{CHART}.focus()")
    press(browser, "ArrowRight")
    settle(browser)
    assert ticks(browser, 0)[-1] >= inner[-1]
    press(browser, "0")
    settle(browser)
    assert ticks(browser, 0) == whole
    press(browser, "+")
    settle(browser)
    assert ticks(browser, 0) != whole


def test_axes_follow_what_is_switched_off(browser):
    chart = "document.querySelector('#g0 [data-chart][aria-label=\"Forgetting\"]')"
    drawn(browser, chart)
    before = ticks(browser, 1, chart)
    button = (
        "[...document.querySelectorAll('#g0 .chips button')]"
        ".find(b => b.textContent.trim() === 'naive')"
    )
    row = browser.evaluate(f"{button}.dataset.toggle")
    cards = (
        f"[...document.querySelectorAll('#g0 [data-row={row}]')].filter(e => e.offsetWidth).length"
    )
    assert browser.evaluate(cards) > 1
    browser.evaluate(f"{button}.click()")
    settle(browser)
    assert browser.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    assert browser.evaluate(cards) == 0
    # The plain network forgets most.
    assert max(ticks(browser, 1, chart)) < max(before)
    browser.evaluate(f"{button}.click()")
    settle(browser)
    assert ticks(browser, 1, chart) == before
    assert browser.evaluate(cards) > 1


def test_parts_of_a_bar_lie_on_one_another(browser):
    chart = "document.querySelector('[data-chart][aria-label=\"Labels replayed, dgdmn\"]')"
    drawn(browser, chart)
    boxes = browser.evaluate(
        f"[...{chart}.querySelectorAll('.mark-rect path')].map(p => p.getBoundingClientRect())"
        ".map(r => [Math.round(r.left), r.top, r.bottom])"
    )
    bars = {}
    for left, top, bottom in sorted(boxes):
        bars.setdefault(left, []).append((top, bottom))
    # After the second experience one label was replayed, after the fifth four.
    assert [len(parts) for parts in bars.values()] == [1, 2, 3, 4]
    for parts in bars.values():
        for (_, bottom), (top, _) in pairwise(parts):
            assert top == pytest.approx(bottom, abs=1.5)


SAVED = """
(() => {
  window.saved = null;
  const click = HTMLAnchorElement.prototype.click;
  HTMLAnchorElement.prototype.click = function () {
    HTMLAnchorElement.prototype.click = click;
    fetchless(this.download, this.href);
  };
  const blobs = new Map();
  const make = URL.createObjectURL;
  URL.createObjectURL = (blob) => { const name = make(blob); blobs.set(name, blob); return name; };
  const fetchless = async (name, href) => {
    const bytes = new Uint8Array(await blobs.get(href).arrayBuffer());
    window.saved = [name, Array.from(bytes.slice(0, 8)), new TextDecoder().decode(bytes)];
  };
})()
"""


def saved(browser, kind):
    """What a button saves: name, the first bytes, the text."""
    browser.evaluate(SAVED)
    browser.evaluate(f"{BOX}.querySelector('[data-do={kind}]').click()")
    wait(browser, "window.saved !== null")
    return browser.evaluate("window.saved")


def test_a_figure_and_its_numbers_are_saved(browser):
    name, _, text = saved(browser, "csv")
    assert name == "average-accuracy-on-experiences-seen.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["name"] for row in rows} == {"naive", "dgdmn", "dgr"}
    assert len(rows) == 3 * 5
    assert all(0 <= float(row["mean"]) <= 1 for row in rows)
    name, _, text = saved(browser, "svg")
    assert name.endswith(".svg")
    assert text.startswith("<svg")
    assert "var(" not in text, "colours that only the page knows"
    # A file stands alone: it has its title and its legend.
    assert ">Average accuracy on experiences seen<" in text
    assert ">naive<" in text
    name, first, _ = saved(browser, "png")
    assert name.endswith(".png")
    assert bytes(first) == b"\x89PNG\r\n\x1a\n"


def test_numbers_below_a_chart(browser):
    browser.evaluate(f"{BOX}.querySelector('.numbers').open = true")
    settle(browser)
    head, first = browser.evaluate(
        f"[...{BOX}.querySelectorAll('tr')].slice(0, 2)"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    assert head == ["name", "at", "mean", "half", "seeds"]
    assert first[1] == "1"
    assert 0 <= float(first[2]) <= 1


def test_a_tooltip_tells_of_all_methods(browser):
    x, y = browser.evaluate(
        f"(() => {{ {CHART}.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        f" const r = {CHART}.getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2] })()"
    )
    settle(browser)
    for shift in (0, 3):
        browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + shift, y=y)
    tip = "document.querySelector('#vg-tooltip-element.visible')"
    wait(browser, f"{tip} !== null")
    said = browser.evaluate(f"{tip}.innerText")
    for method in ("naive", "dgdmn", "dgr"):
        assert method in said
    assert " ± " in said


def test_the_slider_of_the_matrices(browser):
    chart = "document.querySelector('[data-chart][aria-label=\"Accuracy matrix, naive\"]')"
    drawn(browser, chart)
    said = f"{chart}.querySelector('.role-title').textContent"
    assert browser.evaluate(said).startswith("after 5 (4): average of seen 0.")
    pale = (
        f"[...{chart}.querySelectorAll('.mark-rect path')]"
        ".filter(cell => cell.getAttribute('opacity') === '0.08').length"
    )
    assert browser.evaluate(pale) == 0
    browser.evaluate("document.getElementById('g0-matrices-0-after').focus()")
    for _ in range(3):
        press(browser, "ArrowLeft")
    settle(browser)
    assert browser.evaluate(said).startswith("after 2 (1): average of seen 0.")
    # Three of five rows.
    assert browser.evaluate(pale) == 15
    output = "document.querySelector('output[for=\"g0-matrices-0-after\"]').textContent"
    assert browser.evaluate(output) == "2"


def slide(browser, name, value):
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = {value};"
        " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_the_slider_of_the_pictures(browser):
    seen = (
        "[...document.querySelectorAll('#g0-pictures-0 figure')].filter(f =>"
        " f.checkVisibility({visibilityProperty: true})).map(f => Number(f.dataset.at))"
    )
    # The first seeds of two methods.
    assert browser.evaluate(seen) == [5, 5]
    height = "document.getElementById('g0-pictures-0').offsetHeight"
    before = browser.evaluate(height)
    slide(browser, "g0-pictures-0-after", 3)
    assert browser.evaluate(seen) == [3, 3]
    assert browser.evaluate(height) == before


def test_a_picture_is_enlarged(browser):
    card = "document.querySelector('#g0-pictures-0 .card')"
    width = browser.evaluate(f"{card}.offsetWidth")
    browser.evaluate(f"{card}.querySelector('.frames').focus()")
    press(browser, "Enter")
    assert browser.evaluate(f"{card}.offsetWidth") > 2 * width
    press(browser, "Enter")
    assert browser.evaluate(f"{card}.offsetWidth") == width


SMALL = """
[...document.querySelectorAll('body *')].filter(e => {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || e.closest('noscript, script, style')) return false;
  return parseFloat(getComputedStyle(e).fontSize) < 11;
}).map(e => e.outerHTML.slice(0, 120))
"""
OUTSIDE = """
[...document.querySelectorAll('[data-chart] svg')].flatMap(s => {
  const box = s.closest('.card').getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter(t => {
    const r = t.getBoundingClientRect();
    return r.width && (r.left < box.left || r.right > box.right);
  }).map(t => t.textContent);
})
"""


@pytest.mark.parametrize("size", [PHONE, (768, 1024), DESK], ids=str)
def test_nothing_sticks_out_and_everything_can_be_read(browser, path, size):
    browser.size(*size, phone=size == PHONE)
    browser.open(path)
    drawn(browser)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    settle(browser)
    width, inner = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner == size[0]
    assert width <= inner
    assert browser.evaluate(SMALL) == []
    # Text of charts stays within their boxes.
    assert browser.evaluate(OUTSIDE) == []


def test_light_and_dark(browser):
    drawn(browser, "document.querySelector('#g1-tasks [data-chart]')")

    def colours():
        return browser.evaluate(
            "(s => [s(document.body).backgroundColor, s(document.body).color,"
            f" s({CHART}.querySelector('.role-axis-label text')).fill,"
            " s(document.querySelector('#g1-tasks .mark-line path')).stroke])(getComputedStyle)"
        )

    light = colours()
    browser.scheme("dark")
    dark = colours()
    assert brightness(light[0]) > 200 > 100 > brightness(light[1])
    assert brightness(dark[0]) < 60 < 180 < brightness(dark[1])
    for a, b in zip(light[2:], dark[2:], strict=True):
        assert brightness(a) < brightness(b)


def brightness(colour):
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, numbers)) / 3


def test_without_scripts(browser, path):
    browser.script(False)
    browser.open(path)
    # No control that does nothing; tables and all pictures are there.
    assert browser.evaluate(
        "[...document.querySelectorAll('.slider, .tools')].every(s => !s.getClientRects().length)"
    )
    assert browser.evaluate(
        "[...document.querySelectorAll('#g0-pictures-0 > .cards figure')]"
        ".every(f => f.getClientRects().length && getComputedStyle(f).visibility === 'visible')"
    )
    assert "JavaScript" in browser.evaluate("document.querySelector('noscript').textContent")
    browser.size(*PHONE, phone=True)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_can_be_printed(browser):
    drawn(browser)
    # A sheet of A4 between margins; always on light ground.
    browser.size(720, 1000)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.send("Emulation.setEmulatedMedia", media="print", features=features)
    settle(browser)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate(
        "[...document.querySelectorAll('.final')]"
        ".every(t => t.scrollWidth <= t.closest('.card').offsetWidth)"
    )
    assert browser.evaluate(OUTSIDE) == []
    for element in ("document.body", f"{CHART}.querySelector('.role-axis-label text')"):
        style = f"getComputedStyle({element})"
        ink = f"{style}.{'color' if element == 'document.body' else 'fill'}"
        assert brightness(browser.evaluate(ink)) < 120
    assert browser.evaluate(
        "[...document.querySelectorAll('.slider, .tools, .bar nav')]"
        ".every(e => !e.getClientRects().length)"
    )
    found = browser.send("Page.printToPDF", printBackground=True)
    assert len(found["data"]) > 10_000
