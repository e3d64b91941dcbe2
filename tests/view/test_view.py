"""The page: its numbers, its manners, and what a browser makes of it."""

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from mae_jax.data.index import Index
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.view.screen import Screen
from mae_jax.view.server import ViewServer
from mae_jax.viz.projection import project_2d

GENES = ("", "TP53", "MYC", "KRAS")
CHANNELS = ("DNA", "ER")


def make_profiles(plates: int = 2, wells: int = 24) -> Profiles:
    """Wells around one centre a gene, in plates of 384 wells."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(GENES), 20)) * 4
    rows, features = [], []
    for plate in range(plates):
        for well in range(wells):
            gene = well % len(GENES)
            rows.append(
                {
                    "Metadata_Source": "s",
                    "Metadata_Experiment": f"E{1 + plate // 2}",
                    "Metadata_Plate": f"P{1 + plate}",
                    "Metadata_Well": f"{chr(65 + well // 12)}{1 + well % 12:02d}",
                    "Metadata_Gene": GENES[gene],
                    "Metadata_ControlType": "" if gene else "negcon",
                }
            )
            features.append(centres[gene] + rng.normal(size=20))
    names = tuple(f"Image_MAE_{i:04d}" for i in range(20))
    return Profiles(pd.DataFrame(rows), np.asarray(features, np.float32), names)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two sites a well; the images of the last well are missing."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    metadata = make_profiles().metadata
    rows = []
    for number, well in metadata.iterrows():
        for site in ("1", "2"):
            images = [f"{number}_{site}_{channel}.tiff" for channel in CHANNELS]
            if number < len(metadata) - 1:
                for image in images:
                    pixels = rng.integers(0, 5000, (60, 80)).astype(np.uint16)
                    tifffile.imwrite(folder / image, pixels)
            rows.append(
                {
                    **well,
                    "Metadata_Site": site,
                    "Metadata_Perturbation": well["Metadata_Gene"],
                    "Metadata_Split": "train",
                    "Channels": list(CHANNELS),
                    "Images": images,
                }
            )
    return Index(pd.DataFrame(rows), str(folder))


@pytest.fixture(scope="module")
def server(index: Index) -> Iterator[ViewServer]:
    with ViewServer(Screen(make_profiles(), index, method="pca")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ViewServer, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {} if host is None else {"Host": host}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_neighbors_are_those_of_highest_cosine() -> None:
    profiles = make_profiles()
    screen = Screen(profiles, method="pca")
    x = profiles.features.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x[5]
    cosine[5] = -2
    wanted = np.argsort(-cosine)[:8]
    found = screen.neighbors(5)
    assert [well for well, _ in found] == wanted.tolist()
    np.testing.assert_allclose([c for _, c in found], cosine[wanted], atol=1e-5)
    genes = profiles.metadata["Metadata_Gene"]
    assert {genes[well] for well, _ in found} == {genes[5]}


def test_distance_from_the_plates_own_controls() -> None:
    profiles = make_profiles()
    distance = Screen(profiles, method="pca").values()["distance from negative controls"]
    control = (profiles.metadata["Metadata_ControlType"] == "negcon").to_numpy()
    assert distance[control].max() < distance[~control].min()


def test_summary_places_wells_on_their_plates() -> None:
    summary = Screen(make_profiles(), method="pca").summary()
    grid = summary["grid"]
    assert (grid["height"], grid["width"]) == (8, 12)
    assert (grid["rows"][13], grid["columns"][13]) == (1, 1)  # B02
    assert min(summary["x"]) == min(summary["y"]) == 0
    assert max(*summary["x"], *summary["y"]) == 1
    plate = summary["columns"]["Metadata_Plate"]
    assert [plate["values"][code] for code in plate["codes"]] == ["P1"] * 24 + ["P2"] * 24
    assert json.dumps(summary)


def test_only_whole_plates_are_left_out() -> None:
    screen = Screen(make_profiles(plates=5), method="pca", limit=60)
    counts = screen.profiles.metadata["Metadata_Plate"].value_counts()
    assert len(screen) == 48
    assert set(counts) == {24}
    assert screen.total == 120


@pytest.mark.parametrize("method", [pytest.param("umap", marks=pytest.mark.slow), "tsne", "pca"])
def test_flat_maps_keep_groups_together(method) -> None:
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed")
    profiles = make_profiles(plates=4)
    places, words = project_2d(profiles.features, method)
    again, _ = project_2d(profiles.features, method)
    np.testing.assert_array_equal(places, again)
    assert words
    genes = profiles.metadata["Metadata_Gene"].to_numpy()
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (genes[distance.argmin(axis=1)] == genes).mean() > 0.95


def test_the_server_speaks_to_this_machine_alone(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/")[0] == 200
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, "/api/screen", host="evil.example")[0] == 403


def test_a_port_that_is_taken(server: ViewServer) -> None:
    with pytest.raises(InputError, match="another --port"):
        ViewServer(server.screen, server.server_port)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/etc/passwd", 404, "there is no"),
        ("/../secret", 404, "there is no"),
        ("/api/well", 400, "well must be a number below 48"),
        ("/api/well?well=48", 400, "well must be"),
        ("/api/well?well=%C2%B2", 400, "well must be"),
        ("/api/well?well=" + "9" * 5000, 400, "well must be"),
        ("/api/image?well=0&size=9x", 400, "size must be"),
        ("/api/image?well=-1", 400, "well must be"),
        ("/api/image?well=0&site=7", 400, "2 sites"),
        ("/api/image?well=0&channel=Golgi", 400, "no channel 'Golgi'"),
        ("/api/image?well=47", 400, "does not exist"),
    ],
)
def test_wrong_questions_get_an_answer(server: ViewServer, path, status, says) -> None:
    found, content = get(server, path)
    assert found == status
    assert says in json.loads(content)["error"]


def test_images(server: ViewServer) -> None:
    status, content = get(server, "/api/image?well=3&size=40")
    assert status == 200
    picture = np.asarray(Image.open(BytesIO(content)))
    assert picture.shape == (30, 40, 3)
    status, content = get(server, "/api/image?well=3&size=40&channel=ER&site=1")
    assert np.asarray(Image.open(BytesIO(content))).shape == (30, 40)


def test_without_an_index_there_are_no_images() -> None:
    screen = Screen(make_profiles(), method="pca")
    assert not any(screen.summary()["images"])
    with pytest.raises(InputError, match="--index"):
        screen.image(0)


@pytest.fixture
def small_server(index: Index) -> Iterator[ViewServer]:
    screen = Screen(make_profiles(), index, method="pca")
    with ViewServer(screen, max_connections=4, request_timeout=1.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_half_open_connections_are_bounded_and_closed(small_server: ViewServer) -> None:
    before = threading.active_count()
    address = ("127.0.0.1", small_server.server_port)
    connections = [socket.create_connection(address, timeout=10) for _ in range(40)]
    try:
        for connection in connections[:4]:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: ")  # and never the rest
        answers = [connection.recv(100) for connection in connections[4:]]
        assert all(answer.startswith(b"HTTP/1.0 503") for answer in answers)
        assert threading.active_count() <= before + 4
        # Bytes that trickle in do not extend the deadline.
        deadline = time.monotonic() + 5
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                connections[0].sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < deadline
        deadline = time.monotonic() + 5
        while get(small_server, "/")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for connection in connections:
            connection.close()


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def browser() -> Iterator[object]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument("--window-size=1500,950")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the browser's driver's sockets
def test_in_a_browser(server: ViewServer, browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.get(server.url)
    wait = WebDriverWait(browser, 60)
    wait.until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")
    assert "48 wells, 20 features" in browser.find_element(By.ID, "count").text
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plate canvas")) == 2

    # A click on a point of the map shows that well, its image and its neighbors.
    well = 6
    canvas = browser.find_element(By.ID, "map")
    x, y = browser.execute_script(f"return position({well})")
    size = canvas.size
    ActionChains(browser).move_to_element_with_offset(
        canvas, x - size["width"] / 2, y - size["height"] / 2
    ).click().perform()
    panel = browser.find_element(By.ID, "panel")
    wait.until(lambda _: panel.get_attribute("data-well") not in ("", None))
    clicked = int(panel.get_attribute("data-well"))
    assert clicked == well
    assert browser.find_element(By.ID, "name").text == "P1 A07 · MYC"
    wait.until(lambda b: b.execute_script("return document.getElementById('picture').naturalWidth"))
    neighbors = browser.find_elements(By.CSS_SELECTOR, "#neighbors button")
    wanted = [w for w, _ in server.screen.neighbors(well)]
    assert [int(n.get_attribute("data-well")) for n in neighbors] == wanted

    # So does a click on a well of a plate, and on a neighbor.
    plate = browser.find_elements(By.CSS_SELECTOR, ".plate canvas")[1]
    cell = plate.size["width"] / 12
    offset = (1.5 * cell - plate.size["width"] / 2, 1.5 * cell - plate.size["height"] / 2)
    ActionChains(browser).move_to_element_with_offset(plate, *offset).click().perform()
    wait.until(lambda _: panel.get_attribute("data-well") == "37")  # P2 B02
    neighbor = browser.find_elements(By.CSS_SELECTOR, "#neighbors button")[0]
    target = neighbor.get_attribute("data-well")
    neighbor.click()
    wait.until(lambda _: panel.get_attribute("data-well") == target)

    # Colors follow the choice: metadata, a measure, likeness to the chosen well.
    def colors() -> list[str]:
        return browser.execute_script("return colors")

    assert len(set(colors())) == len(GENES)
    by = Select(browser.find_element(By.ID, "by"))
    by.select_by_value("Metadata_Plate")
    assert len(set(colors())) == 2
    by.select_by_value("distance from negative controls")
    assert len(set(colors())) > 20
    by.select_by_value("similarity to the chosen well")
    assert colors()[int(target)] == "rgb(253,231,37)"

    # The end of an address names a well, as the links of an evaluation's page do.
    browser.execute_script("location.hash = '#plate=P2&well=B02'")
    wait.until(lambda _: panel.get_attribute("data-well") == "37")

    # A well whose images are missing says so.
    browser.execute_script("choose(47)")
    problem = browser.find_element(By.ID, "problem")
    wait.until(lambda _: "does not exist" in problem.text)
    assert not browser.find_element(By.ID, "picture").is_displayed()
    browser.save_screenshot(str(tmp_path / "page.png"))
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert all("/api/image?well=47" in e["message"] for e in severe), severe
