"""The page of `avalanche-dgm report` in a real browser: nothing is loaded, everything works."""

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


@pytest.fixture
def browser(running, path):
    """The page at the size of a desk's screen; what goes wrong with it fails the test."""
    running.problems.clear()
    running.requests.clear()
    running.script(True)
    running.scheme("light")
    running.size(*DESK)
    running.open(path)
    yield running
    assert running.problems == []
    assert [r for r in running.requests if not r.startswith(("file:", "data:"))] == []


def test_only_the_file_is_asked_for(browser, path):
    browser.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert path.as_uri() in browser.requests
    assert {r.partition(":")[0] for r in browser.requests} <= {"file", "data"}
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


def test_the_slider_of_the_matrices(browser):
    late = "document.querySelectorAll('#g0-matrix-all .matrix-row.later').length"
    note = "document.querySelector('#g0-matrix-all .readout').textContent"
    assert browser.evaluate(late) == 0
    assert browser.evaluate(note).startswith("after 5 (4): average of seen 0.")
    slide(browser, "g0-matrix-after", 2)
    # Of three methods, three of the five rows.
    assert browser.evaluate(late) == 9
    assert browser.evaluate(note).startswith("after 2 (1): average of seen 0.")
    output = "document.querySelector('output[for=\"g0-matrix-after\"]').textContent"
    assert browser.evaluate(output) == "2"


def slide(browser, name, value):
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = {value};"
        " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_a_slider_with_the_keyboard(browser):
    browser.evaluate("document.getElementById('g0-matrix-after').focus()")
    press(browser, "ArrowLeft")
    assert browser.evaluate("document.getElementById('g0-matrix-after').value") == "4"
    assert "after 4" in browser.evaluate("document.querySelector('.readout').textContent")


def press(browser, key):
    codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27}
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=codes[key],
        )


def test_the_slider_of_the_pictures(browser):
    seen = (
        "[...document.querySelectorAll('#g0-pictures-0 figure')].filter(f =>"
        " f.checkVisibility({visibilityProperty: true})).map(f => Number(f.dataset.at))"
    )
    # The first seeds of two methods.
    assert browser.evaluate(seen) == [5, 5]
    slide(browser, "g0-pictures-0-after", 3)
    assert browser.evaluate(seen) == [3, 3]
    height = "document.getElementById('g0-pictures-0').offsetHeight"
    before = browser.evaluate(height)
    slide(browser, "g0-pictures-0-after", 1)
    assert browser.evaluate(height) == before


def test_a_method_is_switched_off_and_on(browser):
    button = "document.querySelector('#g0 [data-toggle=r0]')"
    shown = (
        "[...document.querySelectorAll('#g0 [data-row=r0]')]"
        ".filter(e => getComputedStyle(e).display !== 'none').length"
    )
    before = browser.evaluate(shown)
    assert before > 10
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    assert browser.evaluate(shown) == 0
    # Tooltips do not tell of it either.
    point(browser, "#g0-accuracy svg.if-wide .hit")
    told = browser.evaluate("document.querySelector('.tip').textContent")
    assert "naive" in told
    assert "dgdmn" not in told
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(shown) == before


def point(browser, selector):
    """Moves the mouse to the middle of an element."""
    x, y = browser.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}');"
        " e.scrollIntoView({block: 'center', behavior: 'instant'});"
        " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
    )
    browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def test_a_tooltip_under_the_mouse(browser):
    point(browser, "#g0-accuracy svg.if-wide .hit:nth-child(2)")
    said = browser.evaluate("document.querySelector('.tip').innerText")
    assert said.startswith("after 2 experiences")
    assert "dgdmn" in said
    assert "naive" in said
    box = browser.evaluate(
        "(r => [r.left, r.top, innerWidth - r.right, innerHeight - r.bottom])"
        "(document.querySelector('.tip').getBoundingClientRect())"
    )
    assert min(box) >= 0


def test_a_tooltip_with_the_keyboard(browser):
    browser.evaluate("document.querySelector('#g0-accuracy svg.if-wide').focus()")
    press(browser, "ArrowRight")
    press(browser, "ArrowRight")
    assert browser.evaluate("document.querySelector('.tip').textContent").startswith("after 2")
    press(browser, "Escape")
    assert browser.evaluate("document.querySelector('.tip').textContent") == ""


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
  if (!own || !e.getClientRects().length || e.closest('desc, title')) return false;
  const svg = e.closest('svg.chart');
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  return parseFloat(getComputedStyle(e).fontSize) * scale < 11;
}).map(e => e.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize("size", [PHONE, (768, 1024), DESK], ids=str)
def test_nothing_sticks_out_and_everything_can_be_read(browser, path, size):
    browser.size(*size, phone=size == PHONE)
    browser.open(path)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    width, inner = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner == size[0]
    assert width <= inner
    assert browser.evaluate(SMALL) == []
    # Text of charts stays within them.
    outside = """
    [...document.querySelectorAll('svg.chart')].flatMap(s => {
      const box = s.getBoundingClientRect();
      return [...s.querySelectorAll('text')].filter(t => {
        const r = t.getBoundingClientRect();
        return r.width && (r.left < box.left - 3 || r.right > box.right + 3);
      }).map(t => t.textContent);
    })
    """
    assert browser.evaluate(outside) == []


def test_light_and_dark(browser, path):
    def colours():
        return browser.evaluate(
            "(s => [s(document.body).backgroundColor, s(document.body).color,"
            " s(document.querySelector('#g0 .chart .line')).stroke,"
            " s(document.querySelector('#g1-tasks .chart .line')).stroke])(getComputedStyle)"
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
    # No control that does nothing; all pictures in strips; places of charts keep their titles.
    assert browser.evaluate(
        "[...document.querySelectorAll('.slider')].every(s => !s.getClientRects().length)"
    )
    assert browser.evaluate(
        "[...document.querySelectorAll('#g0-pictures-0 > .cards figure')]"
        ".every(f => f.getClientRects().length && getComputedStyle(f).visibility === 'visible')"
    )
    assert browser.evaluate("document.querySelectorAll('.hit > title').length") > 100
    browser.size(*PHONE, phone=True)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_can_be_printed(browser):
    # A sheet of A4 between margins; always on light ground.
    browser.size(720, 1000)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.send("Emulation.setEmulatedMedia", media="print", features=features)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate(
        "[...document.querySelectorAll('.final')]"
        ".every(t => t.scrollWidth <= t.closest('.card').offsetWidth)"
    )
    assert brightness(browser.evaluate("getComputedStyle(document.body).color")) < 100
    assert browser.evaluate(
        "[...document.querySelectorAll('.slider, .bar nav')].every(e => !e.getClientRects().length)"
    )
    found = browser.send("Page.printToPDF", printBackground=True)
    assert len(found["data"]) > 10_000
