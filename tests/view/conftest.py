"""A small screen with two embeddings, a server of its page, and a browser."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.data.index import Index
from mae_jax.evaluation.profiles import Profiles
from mae_jax.view.screen import Screen
from mae_jax.view.server import ViewServer

GENES = ("", "TP53", "MYC", "KRAS")
CHANNELS = ("DNA", "ER")


def profiles_of_genes(plates: int = 2, wells: int = 24) -> Profiles:
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


def squared_features(profiles: Profiles) -> Profiles:
    """Another embedding of all wells but the first two, in another order."""
    rows = np.arange(2, len(profiles))[::-1]
    fewer = profiles.take(rows)
    return Profiles(fewer.metadata, fewer.features**2, fewer.names)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two sites a well; the images of the last well are missing."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    metadata = profiles_of_genes().metadata
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
    profiles = profiles_of_genes()
    screen = Screen({"raw": profiles, "squared": squared_features(profiles)}, index, method="pca")
    for each in screen.maps:
        each.project()
    with ViewServer(screen) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def make_profiles() -> Callable[..., Profiles]:
    """Wells around one center per gene, on plates that are asked for."""
    return profiles_of_genes


@pytest.fixture(scope="session")
def squared_profiles() -> Callable[[Profiles], Profiles]:
    """A second embedding of most wells of a first."""
    return squared_features


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def browser() -> Iterator[Any]:
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
