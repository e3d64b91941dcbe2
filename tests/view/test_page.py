"""The page in a browser: maps, plates, filters, search, levels, export, keyboard."""

import json
from pathlib import Path
from typing import Any

import pytest

from mae_jax.view.server import ViewServer

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the browser's driver's sockets


class Page:
    """The opened page."""

    def __init__(self, browser: Any, url: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser
        browser.get(url)
        self._wait = WebDriverWait(browser, 60)
        self.until("document.body.dataset.ready === 'yes'")

    def js(self, expression: str) -> Any:
        return self.browser.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        self._wait.until(lambda _: self.js(expression))

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def drag(self, element: Any, points: list[tuple[float, float]], hold: bool = True) -> None:
        """Move over points in CSS pixels from the element's corner, with the button down."""
        from selenium.webdriver.common.action_chains import ActionChains

        width, height = element.size["width"], element.size["height"]
        moves = ActionChains(self.browser, duration=20)
        for number, (x, y) in enumerate(points):
            moves.move_to_element_with_offset(element, x - width / 2, y - height / 2)
            if number == 0 and hold:
                moves.click_and_hold()
        (moves.release() if hold else moves.click()).perform()

    def shown(self) -> list[int]:
        """The wells of the CSV export."""
        plates = self.js("viewer.csvText()").splitlines()
        column = plates[0].split(",").index("Metadata_Well")
        names = [(line.split(",")[2], line.split(",")[column]) for line in plates[1:]]
        wells = self.js(
            "viewer.state.screen.columns.Metadata_Plate.codes.map((c, w) => "
            "[viewer.state.screen.columns.Metadata_Plate.values[c], "
            "viewer.state.screen.columns.Metadata_Well.values"
            "[viewer.state.screen.columns.Metadata_Well.codes[w]]])"
        )
        return [wells.index(list(name)) for name in names]


@pytest.fixture
def page(server: ViewServer, browser: Any) -> Page:
    return Page(browser, server.url)


def test_choosing_wells(server: ViewServer, page: Page, tmp_path: Path) -> None:
    assert "48 wells, raw: 20 features; squared: 20 features" in page.find("#count").text
    assert len(page.all("#maps canvas")) == 2
    assert len(page.all(".plate canvas")) == 2

    # A click on a point of a map shows that well, its image and its neighbors there.
    for number, well in ((0, 6), (1, 9)):
        canvas = page.all("#maps canvas")[number]
        page.drag(canvas, [tuple(page.js(f"viewer.position({well}, {number})"))], hold=False)
        page.until("document.getElementById('panel').dataset.well !== ''")
        chosen = int(page.find("#panel").get_attribute("data-well"))
        wanted = [w for w, _ in server.screen.maps[number].neighbors(chosen)]
        neighbors = page.all("#neighbors button")
        assert [int(n.get_attribute("data-well")) for n in neighbors] == wanted
        page.until("document.getElementById('picture').naturalWidth > 0")

    # So does a click on a well of a plate, and on a neighbor.
    plate = page.all(".plate canvas")[1]
    cell = (plate.size["width"] - 22) / 12
    page.drag(plate, [(22 + 1.5 * cell, 14 + 1.5 * cell)], hold=False)
    page.until("document.getElementById('panel').dataset.well === '37'")
    assert page.find("#name").text == "P2 B02 · TP53"
    target = page.all("#neighbors button")[0].get_attribute("data-well")
    page.all("#neighbors button")[0].click()
    page.until(f"document.getElementById('panel').dataset.well === '{target}'")

    # The end of an address names a well, as the links of an evaluation's page do.
    page.browser.execute_script("location.hash = '#plate=P2&well=B02'")
    page.until("document.getElementById('panel').dataset.well === '37'")

    # A well whose images are missing says so.
    page.browser.execute_script("viewer.choose(47)")
    page.until("document.getElementById('problem').textContent.includes('does not exist')")
    assert not page.find("#picture").is_displayed()
    page.browser.save_screenshot(str(tmp_path / "page.png"))
    severe = [e for e in page.browser.get_log("browser") if e["level"] == "SEVERE"]
    assert all("well=47" in e["message"] for e in severe), severe


def test_colors_filters_and_search(page: Page) -> None:
    from selenium.webdriver.support.ui import Select

    # The legend hides a category and shows it again.
    assert len(page.shown()) == 48
    page.all("#legend button")[1].click()  # one of four genes
    assert len(page.shown()) == 36
    page.all("#legend button")[1].click()
    assert len(page.shown()) == 48

    by = Select(page.find("#by"))
    by.select_by_value("Metadata_Plate")
    assert len(set(page.js("viewer.state.colors"))) == 2
    by.select_by_value("distance from negative controls")
    assert len(set(page.js("viewer.state.colors"))) > 20
    middle = sorted(page.js("viewer.state.maps[0].values['distance from negative controls']"))[24]
    page.browser.execute_script(
        "const low = document.querySelector('#legend input');"
        f"low.value = {middle}; low.dispatchEvent(new Event('change'))"
    )
    assert len(page.shown()) == 24

    # Search selects all matches and shows the first.
    by.select_by_value("Metadata_Gene")
    page.find("#query").send_keys("kras\n")
    page.until("document.getElementById('panel').dataset.well === '3'")
    assert len(page.shown()) == 12
    assert page.find("#selected").text == "12 wells selected"
    by.select_by_value("similarity to the chosen well")
    assert page.js("viewer.state.colors")[3] == "rgb(253,231,37)"
    page.find("#clear").click()
    assert len(page.shown()) == 48


def test_zoom_lasso_and_keyboard(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    canvas = page.all("#maps canvas")[0]
    before = page.js("viewer.position(5)")
    canvas.send_keys("+")
    assert page.js("viewer.state.maps[0].view.scale") == 1.5
    assert page.js("viewer.position(5)") != before
    view = page.js("viewer.state.maps[0].view")
    page.drag(canvas, [(50, 50), (70, 55)])
    moved = page.js("viewer.state.maps[0].view")
    assert (moved["x"] - view["x"], moved["y"] - view["y"]) == pytest.approx((20, 5), abs=2)
    canvas.send_keys("0")
    assert page.js("viewer.position(5)") == before

    # Arrow keys announce wells; Enter chooses.
    canvas.send_keys(Keys.ARROW_RIGHT)
    first = page.find("#status").text
    canvas.send_keys(Keys.ARROW_DOWN)
    assert first != page.find("#status").text
    canvas.send_keys(Keys.ENTER)
    page.until("document.getElementById('panel').dataset.well !== undefined")
    page.until("document.getElementById('panel').dataset.well !== ''")
    plate = page.all(".plate canvas")[0]
    page.browser.execute_script("viewer.choose(0)")
    page.until("document.getElementById('panel').dataset.well === '0'")
    plate.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert page.find("#status").text == "P1 B02 · TP53"

    # A lasso around the whole map selects all, one around a point that point.
    page.find("#lasso").click()
    size = canvas.size["width"]
    page.drag(canvas, [(2, 2), (size - 3, 2), (size - 3, size - 3), (2, size - 3)])
    assert page.find("#selected").text == "48 wells selected"
    canvas.send_keys(Keys.ESCAPE)
    assert not page.find("#selection").is_displayed()


def test_levels_of_channels(page: Page) -> None:
    page.browser.execute_script("viewer.choose(5)")
    page.until("document.getElementById('picture').src.includes('well=5')")
    assert len(page.all("#channels .channel")) == 3  # a head and two channels
    page.all("#channels input[type=checkbox]")[0].click()
    page.until("document.getElementById('picture').src.includes('channel=ER')")
    page.browser.execute_script(
        "const white = document.querySelectorAll('#channels input[type=range]')[3];"
        "white.value = 100; white.dispatchEvent(new Event('input'))"
    )
    page.until("document.getElementById('picture').src.includes('level=ER')")
    page.until("document.getElementById('picture').naturalWidth > 0")
    # Levels are kept for the next well, and are reset on request.
    page.browser.execute_script("viewer.choose(6)")
    page.until("document.getElementById('picture').src.includes('well=6')")
    assert "level=ER" in page.js("document.getElementById('picture').src")
    page.find("#channels button").click()
    page.until("!document.getElementById('picture').src.includes('level=')")


def test_export(page: Page) -> None:
    svg = page.js("viewer.svgText()")
    assert svg.count("<circle") == 48 + 4  # wells, and the legend of four genes
    parsed = page.js(
        "new DOMParser().parseFromString(viewer.svgText(), 'image/svg+xml')"
        ".querySelector('parsererror') === null"
    )
    assert parsed
    page.browser.execute_script(
        "viewer.pngBlob().then(b => createImageBitmap(b)).then(i => { window.side = i.height })"
    )
    page.until("window.side === 1440")
    table = page.js("viewer.csvText()").splitlines()
    assert table[0].endswith("raw_x,raw_y,squared_x,squared_y")
    assert table[1].endswith(",,")  # the second embedding lacks the first well
    assert json.loads(page.js("JSON.stringify(viewer.state.maps[0].x[1])")) == float(
        table[2].split(",")[-4]
    )
